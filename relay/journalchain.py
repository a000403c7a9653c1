"""The chain of a relay's journal, from its bytes: for the relay that goes on with it, and for whoever checks it."""

import json
from dataclasses import dataclass
from pathlib import Path

import cattrs

from agentproxy.protocol.errors import BackendError, BlindOracleError, RemoteProtocolError
from agentproxy.protocol.journal import FIRST_PREV, parse_line
from agentproxy.protocol.wire import new_converter

__all__ = [
    "Delivered",
    "JournalDamagedError",
    "JournalEnd",
    "JournalUnavailableError",
    "follow",
    "read_mark",
    "whole_length",
]


class JournalUnavailableError(BackendError):
    """The record could not be written, so no local signature may leave; a retry may help."""


class JournalDamagedError(JournalUnavailableError):
    """The file is not what this relay wrote: somebody must look at it before it is gone on with."""


@dataclass(frozen=True, slots=True)
class JournalEnd:
    """Where a journal stands."""

    journal: str = ""  # its name; empty: nothing is written yet
    sequence: int = 0
    hash: bytes = FIRST_PREV


@dataclass(frozen=True, slots=True)
class Delivered:
    """Up to where an oracle has the records."""

    journal: str
    sequence: int
    hash: bytes


def follow(data: bytes, mark: Delivered | None = None) -> tuple[JournalEnd, int]:
    """Check whole lines from a journal's start; where they end, and the offset behind the record that `mark` names.

    Raises:
        JournalDamagedError: which record is wrong, and how.
    """
    end, offset, behind = JournalEnd(), 0, 0
    for line in data.splitlines():
        number = end.sequence + 1
        try:
            record = parse_line(line)
        except RemoteProtocolError as error:
            raise JournalDamagedError(f"record {number} is damaged: {error}") from error
        if record.sequence != number or record.journal != (end.journal or record.journal):
            raise JournalDamagedError(f"record {record.sequence} stands where record {number} belongs")
        if record.prev != end.hash:
            raise JournalDamagedError(f"record {number} does not continue the record before it")
        end = JournalEnd(record.journal, number, record.hash())
        offset += len(line) + 1
        if mark is not None and number == mark.sequence:
            if (end.journal, end.hash) != (mark.journal, mark.hash):
                raise JournalDamagedError(f"record {number} is not the one that an oracle has: it was rewritten")
            behind = offset
    if mark is not None and mark.sequence > end.sequence:
        raise JournalDamagedError(f"it ends with record {end.sequence}, and an oracle has record {mark.sequence}")
    return end, behind


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
        return new_converter().structure(json.loads(data), Delivered)
    except (BlindOracleError, cattrs.ForbiddenExtraKeysError, LookupError, TypeError, ValueError) as error:
        raise JournalDamagedError(f"{path.name} cannot be read: {error}") from error


def whole_length(data: bytes) -> int:
    """How many bytes of a journal are whole lines; a power loss may leave zeros behind them."""
    zeros = data.find(b"\0")
    return data.rfind(b"\n", 0, len(data) if zeros < 0 else zeros) + 1
