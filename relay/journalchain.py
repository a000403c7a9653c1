"""The chain of a relay's journal, from its bytes: for the relay that goes on with it, and for whoever checks it."""

import hashlib
import json
import re
from pathlib import Path

from agentproxy.protocol.errors import BackendError, RemoteProtocolError
from agentproxy.protocol.journal import FIRST_PREV, parse_line
from agentproxy.protocol.structure import UNREADABLE, structured
from agentproxy.protocol.values import frozen

__all__ = [
    "Delivered",
    "JournalDamagedError",
    "JournalEnd",
    "JournalUnavailableError",
    "follow",
    "read_mark",
    "whole_length",
    "whole_lines",
]


class JournalUnavailableError(BackendError):
    """The record could not be written, so no local signature may leave; a retry may help."""


class JournalDamagedError(JournalUnavailableError):
    """The file is not what this relay wrote: somebody must look at it before it is gone on with."""


@frozen
class JournalEnd:
    """Where a journal stands."""

    journal: str = ""  # its name; empty: nothing is written yet
    sequence: int = 0
    hash: bytes = FIRST_PREV


@frozen
class Delivered:
    """Up to where an oracle has the records."""

    journal: str
    sequence: int
    hash: bytes


# What a record's line begins with: fields without a default stand first, always.
_BEGIN = re.compile(
    rb'\{"type":"journal_record","journal":"([0-9a-f]{32})","sequence":([1-9][0-9]{0,18}),"time":"[^"]{27}",'
    rb'"operation":"[a-z]{1,16}","request":"[0-9a-f]{32}","prev":"([0-9a-f]{64})"'
)


def follow(data: bytes, mark: Delivered | None = None) -> tuple[JournalEnd, int]:
    """Check whole lines from a journal's start; where they end, and the offset behind the record that `mark` names.

    Each line but the last is held by the hash in its successor, so only that one is read in full: a relay must not
    need minutes to start.

    Raises:
        JournalDamagedError: which record is wrong, and how.
    """
    end, offset, behind = JournalEnd(), 0, 0
    lines = whole_lines(data)
    for line in lines:
        number = end.sequence + 1
        begin = _BEGIN.match(line)
        if begin is None:
            raise JournalDamagedError(f"record {number} is damaged: it does not begin as one")
        journal, sequence, prev = begin[1].decode("ascii"), int(begin[2]), bytes.fromhex(begin[3].decode("ascii"))
        if sequence != number or journal != (end.journal or journal):
            raise JournalDamagedError(f"record {sequence} stands where record {number} belongs")
        if prev != end.hash:
            raise JournalDamagedError(f"record {number} does not continue the record before it")
        end = JournalEnd(journal, number, hashlib.sha256(line).digest())
        offset += len(line) + 1
        if mark is not None and number == mark.sequence:
            if (end.journal, end.hash) != (mark.journal, mark.hash):
                raise JournalDamagedError(f"record {number} is not the one that an oracle has: it was rewritten")
            behind = offset
    if lines:
        _read_in_full(lines[-1], end.sequence)
    if mark is not None and mark.sequence > end.sequence:
        if end.journal != mark.journal:
            raise JournalDamagedError(
                f"an oracle has record {mark.sequence} of journal {mark.journal}, not of this one"
            )
        raise JournalDamagedError(f"it ends with record {end.sequence}, and an oracle has record {mark.sequence}")
    return end, behind


def _read_in_full(line: bytes, number: int) -> None:
    try:
        parse_line(line)
    except RemoteProtocolError as error:
        raise JournalDamagedError(f"record {number} is damaged: {error}") from error


def read_mark(path: Path) -> Delivered | None:
    """Up to where an oracle has a journal; None: from the start on it has nothing.

    Raises:
        JournalDamagedError: the file says neither.
        OSError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return structured(json.loads(data), Delivered)
    except UNREADABLE as error:
        raise JournalDamagedError(f"{path.name} cannot be read: {error}") from error


def whole_length(data: bytes) -> int:
    """How many bytes of a journal are whole lines; a power loss may leave zeros behind them."""
    zeros = data.find(b"\0")
    return data.rfind(b"\n", 0, len(data) if zeros < 0 else zeros) + 1


def whole_lines(data: bytes) -> list[bytes]:
    """The lines of `data`, which is empty or ends with a newline.

    Not `splitlines`, which takes a carriage return for the end of a line, too: one that somebody puts in would leave
    the chain whole, and move all behind it away from where the next report is read.
    """
    return data.split(b"\n")[:-1]
