"""Opens an audit log's directory after whatever happened to it: lock, check, and save what a crash tore off.

Every step can be repeated: a crash between two of them leaves what the next opening finishes.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Self

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import write_atomically
from agentproxy.signer.checkpoint import checkpoints_path
from agentproxy.signer.checkpointcheck import newest_head
from agentproxy.signer.record import AuditRecord, hash_of_line
from agentproxy.signer.segment import (
    TORN_NAME,
    ChainEnd,
    DamagedError,
    Segment,
    follow_chain,
    last_line,
    lines_of,
    list_segments,
    mapped,
    mapped_file,
    whole_length,
)

__all__ = ["OpenedSegment", "open_directory", "open_last_segment", "orphaned_tails"]

_MODE = 0o640  # auditors read through the group
_MAX_TORN = 4 << 20  # bytes: what one crash can tear; more was on disk for sure, so somebody else cut it
_CUT_HINT = "put the missing segments back; if they are lost, docs/OPERATIONS.md says how to go on (Backup and restore)"
_HINTS = {
    errno.EACCES: "the signer must own it",
    errno.EPERM: "the signer must own it",
    errno.ENOSPC: "make room on its disk: df shows what is left",
    errno.EDQUOT: "make room within the quota of the signer's user",
    errno.EFBIG: "raise the signer's limit of file sizes",
    errno.EROFS: "its disk is mounted read-only: dmesg may say why",
    errno.EIO: "its disk fails: dmesg says more",
}
# Anchored at both ends of what stands before it, as a runner's claims can name a file, too.
_RECOVERED = re.compile(
    rb'^\{"sequence":[0-9]+,"time":"[^"]*","node":"[^"]*","request":null,"operation":"recovered",[^{}\n]*'
    rb'"asserted":\{[^{}\n]*\},"details":\{"file":"(%s)"' % TORN_NAME.pattern.encode("ascii"),
    re.MULTILINE,
)
_VERIFY_HINT = "blind-oracle audit verify shows the first damaged record; keep the directory as evidence"


@frozen
class OpenedSegment:
    """The segment that records go into, and all that the log must know of it."""

    segment: Segment
    descriptor: int
    end: ChainEnd  # of the whole log
    size: int  # bytes
    tail: bytes  # the last page's worth of content, or less
    born: datetime  # when its first record was written, or it was created

    @classmethod
    def create(cls, directory: int, segment: Segment, end: ChainEnd, now: datetime) -> Self:
        """Make a new segment's file and let its name reach the disk.

        Raises:
            OSError: it cannot be made, or holds something already.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(segment.path, flags, _MODE)
        try:
            _refuse_content(descriptor, segment.path)
            os.fsync(directory)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(segment, descriptor, end, 0, b"", now)


def _refuse_content(descriptor: int, path: Path) -> None:
    # A crash may have left an empty file of this name; one with content is somebody else's.
    if os.fstat(descriptor).st_size:
        raise FileExistsError(errno.EEXIST, "a file of this name holds something already", str(path))


def open_directory(directory: Path) -> int:
    """Open and lock `directory`; the lock ends with the descriptor, so also with the process.

    Raises:
        ConfigError: it is missing, or another signer has it.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{directory}: audit directory: {error.strerror}", "blind-oracle init makes it") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        hint = "two signers on one log would break its chain: stop the other, or give this one a directory of its own"
        raise ConfigError(f"{directory}: another signer writes this audit log", hint) from error
    return descriptor


def open_last_segment(lock: int, directory: Path, node: str, clock: Callable[[], datetime]) -> OpenedSegment:
    """Open the segment to continue, or make the first one.

    Raises:
        ConfigError: it cannot be written, belongs to another node, is damaged, or ends before its last checkpoint;
            it is unchanged then.
    """
    try:
        segments = list_segments(directory)
        foreign = next((segment for segment in segments if segment.node != node), None)
        if foreign is not None:
            message = f"{foreign.path}: this audit log belongs to node {foreign.node}, and this is {node}"
            raise ConfigError(message, "a node keeps its name; another node needs a directory of its own")
        checkpoint = _named_by_checkpoint(directory, node)
        if not segments:
            _refuse_cut(directory, ChainEnd(), checkpoint)
            return OpenedSegment.create(lock, Segment.named(directory, node, 1), ChainEnd(), clock())
        before = _end_of(segments[-2]) if len(segments) > 1 else None
        return _open(segments[-1], before, checkpoint, clock())
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise ConfigError(f"{directory}: audit directory: {error.strerror}", hint) from error


def _named_by_checkpoint(directory: Path, node: str) -> Head | None:
    try:
        return newest_head(directory, node)
    except OSError as error:
        message = f"{checkpoints_path(directory, node)}: cannot be read: {error.strerror}"
        raise ConfigError(message, _HINTS.get(error.errno or 0, "")) from error


def _open(segment: Segment, before: ChainEnd | None, checkpoint: Head | None, now: datetime) -> OpenedSegment:
    descriptor = os.open(segment.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with mapped(descriptor) as data:
            opened = _checked(segment, descriptor, data, before, now)
            _refuse_cut(segment.path.parent, opened.end, checkpoint)
            torn = data[opened.size : opened.size + _MAX_TORN + 1]
            if torn:
                _save_torn(segment, data, torn)
        if os.fstat(descriptor).st_size > opened.size:
            os.ftruncate(descriptor, opened.size)
            os.fsync(descriptor)
    except (DamagedError, RemoteProtocolError) as error:
        os.close(descriptor)
        where = f", line {error.line}" if isinstance(error, DamagedError) else ""
        raise ConfigError(f"{segment.path}{where}: the audit log is damaged: {error}", _VERIFY_HINT) from error
    except BaseException:
        os.close(descriptor)
        raise
    return opened


def _checked(
    segment: Segment, descriptor: int, data: mmap.mmap | bytes, before: ChainEnd | None, now: datetime
) -> OpenedSegment:
    size = whole_length(data)
    first = next(lines_of(data, 0, size), b"")
    start = before if before is not None else _start_of(segment, first)
    if start.sequence + 1 != segment.first:
        raise DamagedError(f"by the segment before, record {start.sequence + 1} belongs here", 1)
    end = follow_chain(lines_of(data, 0, size), start)
    born = AuditRecord.parse(first).time if first else now
    return OpenedSegment(segment, descriptor, end, size, data[max(0, size - mmap.PAGESIZE) : size], born)


def _refuse_cut(directory: Path, end: ChainEnd, checkpoint: Head | None) -> None:
    """A checkpoint follows its record to the disk, so what ends before it was cut, or is older than it."""
    if checkpoint is None or checkpoint.sequence < end.sequence:
        return
    path = checkpoints_path(directory, checkpoint.node)
    if checkpoint.sequence > end.sequence:
        there = f"record {end.sequence}" if end.sequence else "no record at all"
        message = f"{path}: the last checkpoint names record {checkpoint.sequence}, and the audit log ends with {there}"
        raise ConfigError(message, _CUT_HINT)
    if checkpoint.hash != end.hash:
        message = f"{path}: the last checkpoint names another record {end.sequence} than the audit log ends with"
        raise ConfigError(message, _VERIFY_HINT)


def _end_of(segment: Segment) -> ChainEnd:
    """The end of a sealed segment, by its last line; `audit verify` reads all of it."""
    with mapped_file(segment.path, sealed=True) as data:
        line = last_line(data, len(data))
    try:
        record = AuditRecord.parse(line)
    except RemoteProtocolError as error:
        raise ConfigError(f"{segment.path}: the audit log is damaged: {error}", _VERIFY_HINT) from error
    return ChainEnd(record.sequence, hash_of_line(line))


def _start_of(segment: Segment, first: bytes) -> ChainEnd:
    """What the only segment there continues: nothing, or one that was moved to an archive."""
    if segment.first == 1:
        return ChainEnd()
    if not first:
        message = f"{segment.path}: it is empty and the segment before it is not there"
        raise ConfigError(message, "bring back the last segment from the archive: its end is needed to continue")
    return ChainEnd(segment.first - 1, AuditRecord.parse(first).prev)


def _save_torn(segment: Segment, data: mmap.mmap | bytes, torn: bytes) -> None:
    """Put what is behind the whole lines aside before it is cut off, so that no crash loses it."""
    if len(torn) > _MAX_TORN:
        message = f"{segment.path}: the audit log is damaged: more than {_MAX_TORN} bytes at its end are no records"
        raise ConfigError(message, _VERIFY_HINT)
    saved = segment.torn
    # A crash after saving and before cutting off finds the same again. But what a record tells of was cut off already.
    if not saved or saved[-1].name in _recovered_in(data) or saved[-1].read_bytes() != torn:
        path = segment.path.with_name(f"{segment.path.name}.torn-{_next_number(saved, data)}")
        # Whole or not at all: on a full disk each start would leave a part, and each part a false record later.
        write_atomically(path, torn, _MODE)


def _next_number(saved: list[Path], data: mmap.mmap | bytes) -> int:
    """One above the highest there is or was: an auditor may have taken a saved tail away, and its record stays."""
    names = [*(path.name for path in saved), *_recovered_in(data)]
    return max((int(name.rpartition("-")[2]) for name in names), default=0) + 1


def _recovered_in(data: mmap.mmap | bytes) -> set[str]:
    """The names of saved tails that a segment's `recovered` records tell of."""
    return {name.decode("ascii") for name in _RECOVERED.findall(data)}


def orphaned_tails(segment: Segment) -> list[dict[str, str]]:
    """The details of a `recovered` record for each saved tail that no record of its segment names yet."""
    saved = segment.torn
    if not saved:
        return []
    with mapped_file(segment.path) as data:
        told = _recovered_in(data)
    missing = [path for path in saved if path.name not in told]
    tails = []
    for path in missing:
        torn = path.read_bytes()
        if not torn:  # what was torn has bytes: somebody else made it, or a signer on a full disk that did it otherwise
            continue
        sha256 = hashlib.sha256(torn).hexdigest()
        tails.append({"file": path.name, "bytes": str(len(torn)), "sha256": sha256})
    return tails
