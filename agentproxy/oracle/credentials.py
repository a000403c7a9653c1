"""What the registry knows of runners' credentials, as one immutable picture.

Secrets are not in it: a token is its SHA-256. Looking that up in a dictionary tells a timing attacker nothing of
use, because a guess's hash is not the guess.
"""

import enum
from collections.abc import Mapping
from dataclasses import field
from datetime import datetime

from agentproxy.protocol.values import frozen

__all__ = ["CertificateEntry", "Credentials", "RunnerEntry", "TokenEntry", "TokenKind"]


class TokenKind(enum.StrEnum):
    """What a token is for."""

    LASTING = "lasting"
    BOOTSTRAP = "bootstrap"  # it opens nothing but the exchange for lasting credentials, once


@frozen
class RunnerEntry:
    """A runner that somebody added."""

    name: str
    created: datetime
    disabled: bool = False


@frozen
class TokenEntry:
    """A token that was given out."""

    sha256: bytes = field(repr=False)  # 32 bytes
    id: str  # public: the first 12 hex digits of the SHA-256
    runner: str
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    last_used: datetime | None = None
    kind: TokenKind = TokenKind.LASTING
    replaces: str | None = None  # id of the token that it was given out for, which ends when this one is used
    confirmed: datetime | None = None  # its first use, for one that replaces another

    @property
    def is_pending(self) -> bool:
        """Whether it was sent to a relay that has not used it yet."""
        return self.replaces is not None and self.confirmed is None


@frozen
class CertificateEntry:
    """A client certificate that was issued."""

    sha256: bytes  # 32 bytes, of the DER form
    public_key_sha256: bytes  # 32 bytes, of the SubjectPublicKeyInfo: what revocation names
    runner: str
    created: datetime
    expires: datetime | None = None
    token: str | None = None  # id of the token that was issued together with it


@frozen
class Credentials:
    """Everything, at one generation of the registry."""

    generation: int = 0
    runners: Mapping[str, RunnerEntry] = field(default_factory=dict)
    tokens: Mapping[bytes, TokenEntry] = field(default_factory=dict)  # by SHA-256
    certificates: Mapping[bytes, CertificateEntry] = field(default_factory=dict)  # by SHA-256
    revoked_public_keys: frozenset[bytes] = frozenset()  # SHA-256: whatever certificate holds them
