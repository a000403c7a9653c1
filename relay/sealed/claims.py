"""What this program tells the oracle about itself and the file, for the audit log: claimed, as all claims are."""

import os
from dataclasses import replace
from pathlib import Path

from agentproxy.protocol.fields import MAX_CLAIM, Claims
from agentproxy.runtime.peer import Peer
from relay.cleaning import clean
from relay.sighting import claims_of

__all__ = ["claims_about", "claims_about_us"]

# Of our own command line, which names every file of the run, and of those who started us: a shell, a script, the CI's
# runner. All of it stands in the record of every file.
_LONGEST = 256  # characters
_MOST = 4


def claims_about_us() -> Claims | None:
    """Who signs; None when nothing of it can be said. One run asks once: it reads /proc."""
    claims = claims_of(Peer(os.getpid(), os.geteuid(), os.getegid(), ()))
    if claims is None:
        return None
    return replace(claims, commands=tuple(command[:_LONGEST] for command in claims.commands[:_MOST]))


def claims_about(us: Claims | None, file: Path, package: str | None = None) -> Claims | None:
    """What is signed, and by whom; whatever a file's name holds, the text can stand in a log."""
    if us is None:
        return None
    return replace(us, file=clean(str(file), MAX_CLAIM), package=None if package is None else clean(package, MAX_CLAIM))
