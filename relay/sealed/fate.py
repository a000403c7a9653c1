"""How files are signed, and what became of each."""

import enum
from pathlib import Path

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.seal_messages import Sealed
from agentproxy.protocol.values import frozen

__all__ = ["Existing", "Outcome", "Result", "Way"]


class Outcome(enum.StrEnum):
    """What became of a file."""

    SIGNED = "signed"
    KEPT = "kept"  # it had a signature, and such are kept
    FAILED = "failed"
    NOT_TRIED = "not_tried"  # since nothing could come of it any more


class Existing(enum.StrEnum):
    """What to do with packages that have a signature."""

    REPLACE = "replace"
    KEEP = "keep"
    REFUSE = "refuse"


@frozen
class Result:
    """One file's fate."""

    file: Path
    outcome: Outcome
    reason: str = ""
    code: str = ""  # the oracle's, where it gave one
    signature: Path | None = None  # the file that holds it
    package: str | None = None
    sealed: Sealed | None = None


@frozen
class Way:
    """How files are signed."""

    key: ServedKey
    algorithm: HashAlgorithm
    distribution: str | None = None
    existing: Existing = Existing.REPLACE
    armor: bool = True  # of detached signatures
    jobs: int = 64  # files at once
