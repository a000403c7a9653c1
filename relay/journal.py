"""The relay's own journal: every local signature stands in it, on disk, before gpg gets it.

One file of chained lines (`agentproxy.protocol.journal`), appended to with one fdatasync each. All of it blocks:
callers use a thread, one at a time. What an oracle has is marked beside it; the mark is written after the oracle's
answer, so that a crash in between repeats a report and never loses one.

After a failed write or fdatasync nobody knows what the disk holds, so success is never taken from a repeated one: the
file is cut back to what an earlier fdatasync confirmed, and the page in which that ends is written anew.
"""

import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.journal import (
    MAX_RECORD,
    MAX_REPORT_BYTES,
    MAX_REPORT_RECORDS,
    JournalOperation,
    JournalRecord,
    parse_line,
)
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.wire import new_converter
from agentproxy.runtime.files import write_atomically
from relay.journalchain import (
    Delivered,
    JournalDamagedError,
    JournalEnd,
    JournalUnavailableError,
    follow,
    read_mark,
    whole_length,
)

__all__ = ["Draft", "Journal"]

logger = logging.getLogger(__name__)

# A record is much smaller; a file system that has less is full for us, before a key is used in vain.
_ROOM = 2 * MAX_RECORD
_MODE = 0o600  # claims hold command lines


@dataclass(frozen=True, slots=True)
class Draft:
    """A record without its place; the fields are `JournalRecord`'s."""

    operation: JournalOperation
    request: str
    mode: str = ""
    reason: str = ""
    fingerprint: Fingerprint | None = None
    keygrip: Keygrip | None = None
    digest: Digest | None = None
    signature_sha256: bytes | None = None
    socket: str = ""
    distribution: str | None = None
    claims: Claims | None = None


class Journal:
    """The open journal of one relay.

    Args:
        path: the file; its directory exists.
        clock: the runner's, for the records.

    Attributes:
        end: the last record that is surely on disk.
        trouble: why the last attempt to write failed; empty when all is well.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.end = JournalEnd()
        self.trouble = ""
        self._path = path
        self._mark_path = path.with_name("delivered.json")
        self._mark: Delivered | None = None
        self._clock = clock
        self._fd = -1
        self._size = 0  # bytes that an fdatasync has confirmed
        self._tail = b""  # the last page of them
        self._unreported = 0  # offset of the first record that no oracle has
        self._broken = False

    @property
    def undelivered(self) -> int:
        """How many records no oracle has."""
        return self.end.sequence - (self._mark.sequence if self._mark else 0)

    def open(self) -> None:
        """Lock and check the file, and put aside what a crash tore off its end; without a file there is none yet.

        Raises:
            JournalDamagedError: it was changed.
            JournalUnavailableError: it cannot be read or written, or another relay writes it.
        """
        if self._fd >= 0:
            return
        try:
            self._open()
        except OSError as error:
            self.close()
            raise self._failed(error) from error
        except JournalUnavailableError as error:
            self.close()
            self.trouble = f"{self._path}: {error}"
            raise

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        mark = read_mark(self._mark_path)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalUnavailableError("another relay writes it") from error
        data = _content(self._fd)
        whole = whole_length(data)
        self.end, self._unreported = follow(data[:whole], mark)
        self._mark = mark
        self._size, self._tail, self._broken = whole, data[max(0, whole - mmap.PAGESIZE) : whole], False
        _sync_directory(self._path.parent)
        self.trouble = ""
        if len(data) > whole:
            self._recover(data[whole:])

    def _recover(self, torn: bytes) -> None:
        """Put a torn end aside, then cut it off: in this order, so that no crash loses it."""
        sha256 = hashlib.sha256(torn).hexdigest()
        aside = self._path.with_name(f"{self._path.name}.torn-{sha256[:16]}")
        write_atomically(aside, torn, _MODE)
        os.ftruncate(self._fd, self._size)
        os.fsync(self._fd)
        reason = f"a crash had torn {len(torn)} bytes off the end: {aside.name}, SHA-256 {sha256}"
        logger.warning("journal recovered, path=%s torn=%d", self._path, len(torn))
        self.append(Draft(JournalOperation.RECOVERED, secrets.token_hex(16), reason=reason))

    def check(self) -> None:
        """Find out whether a record could be written now, before a key is used for one.

        Raises:
            JournalUnavailableError: as far as can be known, it could not.
        """
        self.open()
        try:
            if self._broken:
                self._repair()
            _require_room(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        self.trouble = ""

    def append(self, draft: "Draft") -> JournalRecord:
        """Write one record; the disk has it when this returns.

        Raises:
            JournalUnavailableError: it has not, and nothing of it stays.
        """
        self.open()
        record = _fitting(self._placed(draft))
        line = record.line() + b"\n"
        try:
            if self._broken:
                self._repair()
            self._broken = True  # until all of it is written: an exception leaves it so
            _write_all(self._fd, line, self._size)
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        self._broken, self.trouble = False, ""
        self._size += len(line)
        self._tail = (self._tail + line)[-mmap.PAGESIZE :]
        self.end = JournalEnd(record.journal, record.sequence, record.hash())
        return record

    def _placed(self, draft: "Draft") -> JournalRecord:
        return JournalRecord(
            journal=self.end.journal or secrets.token_hex(16),
            sequence=self.end.sequence + 1,
            time=self._clock(),
            operation=draft.operation,
            request=draft.request,
            prev=self.end.hash,
            mode=draft.mode,
            reason=draft.reason,
            fingerprint=draft.fingerprint,
            keygrip=draft.keygrip,
            digest=draft.digest,
            signature_sha256=draft.signature_sha256,
            socket=draft.socket,
            distribution=draft.distribution,
            claims=draft.claims,
        )

    def next_report(self) -> tuple[JournalRecord, ...]:
        """The oldest records that no oracle has, as many as fit into one report; none when all are delivered.

        Raises:
            JournalUnavailableError: the file cannot be read, or is damaged.
        """
        if self._fd < 0 and not self._path.exists():
            return ()
        self.open()
        try:
            data = os.pread(self._fd, min(MAX_REPORT_BYTES, self._size - self._unreported), self._unreported)
        except OSError as error:
            raise self._failed(error) from error
        lines = data[: data.rfind(b"\n") + 1].splitlines()[:MAX_REPORT_RECORDS]
        try:
            return tuple(map(parse_line, lines))
        except RemoteProtocolError as error:
            raise JournalDamagedError(f"{self._path}: it was changed while it was open: {error}") from error

    def delivered(self, records: tuple[JournalRecord, ...]) -> None:
        """An oracle has these, which `next_report` gave last.

        Raises:
            JournalUnavailableError: the mark cannot be written; the records would be reported again.
        """
        last = records[-1]
        mark = Delivered(last.journal, last.sequence, last.hash())
        plain: object = new_converter().unstructure(mark)
        try:
            write_atomically(self._mark_path, json.dumps(plain).encode("ascii"), 0o644)
        except OSError as error:
            raise self._failed(error) from error
        self._mark = mark
        self._unreported += sum(len(record.line()) + 1 for record in records)

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _repair(self) -> None:
        os.ftruncate(self._fd, self._size)
        _write_all(self._fd, self._tail, self._size - len(self._tail))
        os.fsync(self._fd)
        self._broken = False

    def _failed(self, error: OSError) -> JournalUnavailableError:
        self.trouble = f"{self._path}: {error.strerror}"
        if self._broken and self._fd >= 0:
            try:
                self._repair()
            except OSError as second:
                self.trouble += f"; and it cannot be cut back: {second.strerror}"
        return JournalUnavailableError(self.trouble)


def _fitting(record: JournalRecord) -> JournalRecord:
    """A record that a report can carry: what nobody needs goes first, and the signature always stays."""
    if len(record.line()) <= MAX_RECORD or record.claims is None:
        return record
    claims = record.claims
    return replace(record, claims=Claims(uid=claims.uid, user=claims.user, pid=claims.pid))


def _require_room(descriptor: int) -> None:
    space = os.fstatvfs(descriptor)
    if space.f_bavail * space.f_frsize < _ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _content(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read()


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
