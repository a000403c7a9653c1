"""What the audit log says about credentials, for an oracle whose registry may be older. Reads only, in bounded parts.

What this process wrote itself it remembers: oracles ask every minute, and to look through a hundred thousand records
takes the interpreter from everybody seven times, for 13 ms each. The rest it reads, as far as it is surely on disk, and
never maps a file: the pen may cut a file back at any time, and touching a page behind the cut would kill the signer.
"""

import bisect
import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.signer_answers import CREDENTIAL_OPERATIONS, CredentialRecord
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.protocol.values import frozen
from agentproxy.signer.record import AuditRecord
from agentproxy.signer.segment import list_segments, place_of

__all__ = ["CredentialsPage", "WrittenCredentials", "read_credentials", "read_line"]

PAGE_BYTES = 8 << 20  # of the log; about 20 ms of one thread
ANSWER_BYTES = 32 << 10  # of records' lines; their part that is sent is smaller, so an answer fits into a frame
KEPT_BYTES = 8 << 20  # of lines whose records are remembered: years of honest use, and little for a dishonest oracle
_LINE_BYTES = 1 << 20  # a line is shorter, so that a block of this size has the end of one in it
_STEP_BYTES = 16 << 10  # most lines are much shorter

# Anchored at both ends of what stands before it: no text from outside can look like an operation.
_OF_CREDENTIALS = re.compile(
    rb'\{"sequence":[0-9]+,"time":"[^"]*","node":"[^"]*","request":(?:null|"[0-9a-f]*"),"operation":"(?:%s)",'
    % b"|".join(sorted(name.encode() for name in CREDENTIAL_OPERATIONS))
)


_Written = tuple[CredentialRecord, int]  # with its line's length


@frozen
class CredentialsPage:
    """The credential records of one part of the log."""

    records: tuple[CredentialRecord, ...]
    through: int  # sequence of the last record that was looked at


class WrittenCredentials:
    """The newest credential records that one process has written; one thread adds, any may look.

    Args:
        since: sequence of the last record before its first one.
    """

    def __init__(self, since: int) -> None:
        self._kept: tuple[int, tuple[_Written, ...]] = (since, ())  # one object: readers take it without a lock
        self._bytes = 0

    def add(self, written: Sequence[tuple[CredentialRecord, int]]) -> None:
        """Remember records that are written, in order, each with its line's length in bytes."""
        if not written:
            return
        since, kept = self._kept
        kept += tuple(written)
        self._bytes += sum(size for _, size in written)
        dropped = 0
        while self._bytes > KEPT_BYTES:
            since = kept[dropped][0].sequence
            self._bytes -= kept[dropped][1]
            dropped += 1
        self._kept = since, kept[dropped:]

    def part(self, after: int, last: int) -> tuple[int, CredentialsPage | None]:
        """As `read_credentials`, or None for an `after` that was before those that are remembered.

        Returns:
            First the sequence of the last record before those.
        """
        since, kept = self._kept
        if after < since:
            return since, None
        start = bisect.bisect_right(kept, after, key=_sequence)
        stop = bisect.bisect_right(kept, last, key=_sequence)
        size = 0
        for place in range(start, stop):
            size += kept[place][1]
            if place > start and size > ANSWER_BYTES:
                stop, last = place, kept[place - 1][0].sequence
                break
        return since, CredentialsPage(tuple(record for record, _ in kept[start:stop]), last)


def _sequence(written: _Written) -> int:
    return written[0].sequence


def read_credentials(
    directory: Path, after: int, last: int, written: WrittenCredentials | None = None
) -> CredentialsPage:
    """Look at records behind sequence `after`, at most up to `last`, which must be on disk. It blocks.

    Args:
        written: by this process; without it everything is read.

    Raises:
        BackendError: the log ends before `after`, the records behind it were archived, or a file cannot be read.
    """
    if after > last:
        raise BackendError(f"the log ends with record {last}, before record {after}")
    if after == last:
        return CredentialsPage((), last)
    if written is not None:
        since, page = written.part(after, last)
        if page is not None:
            return page
        last = min(last, since)
    with _opened(directory, after + 1) as descriptor:
        return _page(descriptor, after, last)


def read_line(directory: Path, sequence: int) -> bytes:
    """The line of one record, without its newline; the record must be on disk. It blocks.

    Raises:
        BackendError: the record was archived, or a file cannot be read.
    """
    with _opened(directory, sequence) as descriptor:
        block = os.pread(descriptor, _LINE_BYTES, _offset_behind(descriptor, sequence - 1))
        line = block[: max(0, block.find(b"\n"))]
        if not line or place_of(line)[0] != sequence:
            raise BackendError(f"record {sequence} is not where it belongs")
        return line


@contextlib.contextmanager
def _opened(directory: Path, sequence: int) -> Iterator[int]:
    """The segment that record `sequence` belongs into."""
    segments = [segment for segment in list_segments(directory) if segment.first <= sequence]
    if not segments:
        raise BackendError(f"record {sequence} was archived: its segment is not in the log's directory")
    try:
        descriptor = os.open(segments[-1].path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise BackendError(f"{segments[-1].path}: {error}") from error


def _page(descriptor: int, after: int, last: int) -> CredentialsPage:
    data = os.pread(descriptor, PAGE_BYTES, _offset_behind(descriptor, after))
    found: list[CredentialRecord] = []
    through, size = after, 0
    for line in data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]:
        if through >= last:
            break
        if _OF_CREDENTIALS.match(line) is not None:
            size += len(line)
            if found and size > ANSWER_BYTES:
                break
            found += _parsed(line)
        through += 1
    if through == after:
        raise BackendError(f"record {after + 1} is not where it belongs")
    return CredentialsPage(tuple(found), through)


def _line_behind(descriptor: int, place: int) -> tuple[int, bytes]:
    """Where the first whole line behind `place` begins, and the line without its newline; empty when there is none."""
    for size in (_STEP_BYTES, _LINE_BYTES):
        block = os.pread(descriptor, size, place)
        start = block.find(b"\n") + 1
        end = block.find(b"\n", start)
        if start and end >= 0:
            return place + start, block[start:end]
    return place, b""


def _parsed(line: bytes) -> list[CredentialRecord]:
    record = AuditRecord.parse(line)
    if record.entry.outcome is not Outcome.DONE:
        return []
    return [CredentialRecord(record.sequence, record.time, record.entry.operation, record.entry.details)]


def _offset_behind(descriptor: int, after: int) -> int:
    """Where the record behind `after` begins, found by halving: a segment has up to 64 MiB."""
    low, high = 0, os.fstat(descriptor).st_size  # the record begins in low … high
    while high - low > _STEP_BYTES:
        middle = (low + high) // 2
        start, line = _line_behind(descriptor, middle)
        # Behind it may be zeros, or a part of a line, with zeros in it: one that is being written into them now.
        if not line or b"\x00" in line or place_of(line)[0] > after:
            high = middle
        else:
            low = start
    block = os.pread(descriptor, high - low + 2 * _LINE_BYTES, low)
    start = 0
    while (end := block.find(b"\n", start)) >= 0:
        if place_of(block[start:end])[0] > after:
            return low + start
        start = end + 1
    raise BackendError(f"record {after + 1} is not where it belongs")
