"""The files that an audit log consists of, and the chain through their lines. Reads only.

A segment is named NODE-<sequence of its first record, 12 digits>.jsonl, holds whole lines, and continues the chain of
the segment before it. What a crash tore off its end lies beside it in a file with .torn-N at the end of its name.
Behind the lines of the last segment there may be zeros, for records to be written over (`pen` says why).
"""

import contextlib
import errno
import mmap
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from agentproxy.protocol.errors import BlindOracleError
from agentproxy.protocol.values import frozen
from agentproxy.signer.record import FIRST_PREV, hash_of_line

__all__ = [
    "TORN_NAME",
    "ZEROS_AHEAD",
    "ChainEnd",
    "DamagedError",
    "Segment",
    "follow_chain",
    "holding",
    "last_line",
    "lines_of",
    "list_segments",
    "mapped",
    "mapped_file",
    "open_segment",
    "place_of",
    "whole_length",
]

ZEROS_AHEAD = 1 << 17  # bytes at most, behind the last segment's lines: a hundred records share the cost of a step

TORN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\.jsonl\.torn-[0-9]{1,20}")  # of the files beside segments

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._+-]{0,63})-([0-9]{12,18})\.jsonl")
_LINE_START = re.compile(rb'\{"sequence":([1-9][0-9]{0,17}),"time":"')
_LINE_END = re.compile(rb'"prev":"([0-9a-f]{64})"\}')
_LINE_END_SIZE = len(b'"prev":""}') + 64


class DamagedError(BlindOracleError):
    """A segment is not what a signer wrote.

    Attributes:
        line: the number of the first line, from 1, that does not fit.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@frozen
class Segment:
    """One file of a log, by its name."""

    path: Path
    node: str
    first: int  # sequence of its first record

    @classmethod
    def named(cls, directory: Path, node: str, first: int) -> Self:
        """The segment that begins with record `first`."""
        return cls(directory / f"{node}-{first:012}.jsonl", node, first)

    @property
    def torn(self) -> list[Path]:
        """What crashes tore off this segment, in the order of the numbers that end the names."""
        parts = self.path.parent.glob(f"{self.path.name}.torn-*")
        numbered = [(part.name.rpartition("-")[2], part) for part in parts]
        return [part for number, part in sorted(numbered, key=lambda pair: (len(pair[0]), pair)) if number.isdecimal()]


@frozen
class ChainEnd:
    """Where a chain stands: what the next record must continue."""

    sequence: int = 0  # 0: before the first record
    hash: bytes = FIRST_PREV


def list_segments(directory: Path) -> list[Segment]:
    """All segments in `directory`, in the order of their names' sequences."""
    segments = []
    for path in directory.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None:
            segments.append(Segment(path, match[1], int(match[2])))
    return sorted(segments, key=lambda segment: (segment.first, segment.node))


def holding(segments: list[Segment], sequence: int) -> Segment:
    """The segment that a record stands in, by the segments' names."""
    return next((segment for segment in reversed(segments) if segment.first <= sequence), segments[0])


def place_of(line: bytes) -> tuple[int, bytes]:
    """What a line says about its place: its sequence and its `prev`.

    Raises:
        ValueError: it does not begin and end as a record does.
    """
    start, end = _LINE_START.match(line), _LINE_END.fullmatch(line[-_LINE_END_SIZE:])
    if start is None or end is None:
        raise ValueError("this line is not a record")
    return int(start[1]), bytes.fromhex(end[1].decode())


def follow_chain(lines: Iterable[bytes], start: ChainEnd) -> ChainEnd:
    """Check that `lines`, without their newlines, continue `start` without a gap, and say where they end.

    It looks at the links only; whether each line is a record in the canonical form is `AuditRecord.parse`'s business.

    Raises:
        DamagedError: a line is no record, or not the next one.
    """
    sequence, prev = start.sequence, start.hash
    for number, line in enumerate(lines, 1):
        sequence += 1
        if not (line.startswith(b'{"sequence":%d,"time":"' % sequence) and line.endswith(_end_with(prev))):
            raise DamagedError(_why_not(line, sequence), number)
        prev = hash_of_line(line)
    return ChainEnd(sequence, prev)


def _end_with(prev: bytes) -> bytes:
    return b',"prev":"%s"}' % prev.hex().encode()


def _why_not(line: bytes, sequence: int) -> str:
    try:
        found, _ = place_of(line)
    except ValueError as error:
        return f"{error}, record {sequence} belongs here"
    if found != sequence:
        return f"record {found} stands where record {sequence} belongs"
    return f"record {sequence} does not continue the record before it"


@contextlib.contextmanager
def mapped(descriptor: int, *, sealed: bool = False) -> Iterator[mmap.mmap | bytes]:
    """A file's content without reading it all into memory, and without the zeros ahead of its end unless `sealed`."""
    # A signer that seals the file cuts these zeros off: whoever touched them in a mapping then would be killed.
    size = os.fstat(descriptor).st_size if sealed else _written(descriptor)
    if size == 0:
        yield b""
        return
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as data:
        yield data


def _written(descriptor: int) -> int:
    """A file's length without the zeros at its end, as far as these can be a signer's: some, behind something."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - ZEROS_AHEAD - 1)
    content = os.pread(descriptor, size - start, start).rstrip(b"\x00")
    return start + len(content) if content else size


def open_segment(path: Path) -> int:
    """Open a file of a log for reading; a symlink is refused, since it would lead out of the log's directory.

    Raises:
        OSError: it cannot be read, or is not a file: a FIFO would keep a reader waiting for ever.
    """
    refusal = OSError(errno.EINVAL, "expected a regular file", str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, which nobody can open
            raise refusal from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refusal
    return descriptor


@contextlib.contextmanager
def mapped_file(path: Path, *, sealed: bool = False) -> Iterator[mmap.mmap | bytes]:
    """As `mapped`, for a path that `open_segment` opens."""
    descriptor = open_segment(path)
    try:
        with mapped(descriptor, sealed=sealed) as data:
            yield data
    finally:
        os.close(descriptor)


def lines_of(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[bytes]:
    """The lines between two offsets that lie at starts of lines, without their newlines."""
    while start < end:
        stop = data.find(b"\n", start)
        yield data[start:stop]
        start = stop + 1


def last_line(data: mmap.mmap | bytes, end: int) -> bytes:
    """The line that ends at `end`, without its newline; empty when there is none."""
    return data[data.rfind(b"\n", 0, max(0, end - 1)) + 1 : max(0, end - 1)]


def whole_length(data: mmap.mmap | bytes) -> int:
    """How many bytes from the start of `data` are whole lines.

    A crash leaves a last line without its newline; a power loss can also leave zeros where the file's length had
    reached the disk, and its content had not.
    """
    zeros = data.find(b"\x00")
    return data.rfind(b"\n", 0, len(data) if zeros < 0 else zeros) + 1
