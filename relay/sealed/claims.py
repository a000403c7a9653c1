"""What this program tells the oracle about itself and the file, for the audit log: claimed, as all claims are."""

import os
from dataclasses import replace
from pathlib import Path

from agentproxy.protocol.fields import MAX_CLAIM, Claims
from agentproxy.runtime.unixsocket import Peer
from relay.caller import claims_of

__all__ = ["claims_about"]


def claims_about(file: Path, package: str | None = None) -> Claims | None:
    """Who signs, and what; whatever a file's name holds, the text can stand in a log."""
    me = Peer(os.getpid(), os.geteuid(), os.getegid(), ())
    claims = claims_of(me)
    if claims is None:
        return None
    return replace(claims, file=_printable(str(file)), package=None if package is None else _printable(package))


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[:MAX_CLAIM]
