"""The relay's own journal: every local signature stands in it, on disk, before gpg gets it.

One file of chained lines (`agentproxy.protocol.journal`), appended to with one fdatasync each. All of it blocks:
callers use a thread, one at a time. What an oracle has is marked beside it; the mark is written after the oracle's
answer, so that a crash in between repeats a report and never loses one.

After a failed write or fdatasync nobody knows what the disk holds, so success is never taken from a repeated one: the
file is cut back to what an earlier fdatasync confirmed, and the page in which that ends is written anew.

Before each use the file is looked at: somebody may have written into it, or moved it away, while we have it open. What
is not as our own last write left it is read and checked again, from the first record on.
"""

import fcntl
import hashlib
import json
import logging
import mmap
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.journal import (
    MAX_REPORT_BYTES,
    MAX_REPORT_RECORDS,
    JournalOperation,
    JournalRecord,
    parse_line,
)
from agentproxy.protocol.unstructure import unstructured
from agentproxy.runtime.files import write_atomically
from relay.draft import Draft
from relay.journalchain import (
    Delivered,
    JournalDamagedError,
    JournalEnd,
    JournalUnavailableError,
    follow,
    read_mark,
    whole_length,
    whole_lines,
)
from relay.journalfile import Stamp, content, leave, require_room, stamp_at, sync_directory, write_all

__all__ = ["Journal"]

logger = logging.getLogger(__name__)

_MODE = 0o600  # claims hold command lines


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
        self._stamp: Stamp | None = None  # how we left the file; None: it must be read again

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
        if mark is not None and stamp_at(self._path) is None:
            raise JournalDamagedError(
                f"there is none, and {self._mark_path.name} says that an oracle has record {mark.sequence} of it: "
                "move both away, or put both back"
            )
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalUnavailableError("another relay writes it") from error
        self._read(mark)
        sync_directory(self._path.parent)
        self.trouble = ""

    def _read(self, mark: Delivered | None) -> None:
        """Check all of the file; what stands in it must end as this relay left it, if this one has written it."""
        self._stamp = None
        stamp = Stamp.of(os.fstat(self._fd))  # before reading: what is written meanwhile must show the next time
        data = content(self._fd)
        whole = whole_length(data)
        end, unreported = follow(data[:whole], mark)
        if self.end.journal:
            _require_same_end(end, self.end, len(data) - whole)
        self.end, self._unreported, self._mark = end, unreported, mark
        self._size, self._tail, self._broken = whole, data[max(0, whole - mmap.PAGESIZE) : whole], False
        self._stamp = stamp
        if len(data) > whole:
            self._recover(data[whole:])

    def _look(self) -> None:
        """Make sure that the path leads to our file, and that it is as we left it; each use begins here.

        Raises:
            JournalDamagedError: somebody changed it.
            JournalUnavailableError: it cannot be read or written.
        """
        try:
            found = self._found()
            if found and self._fd >= 0 and found.file != Stamp.of(os.fstat(self._fd)).file:
                self.close()
            self.open()
            if self._broken:
                self._repair()
            if self._stamp is None or self._stamp != stamp_at(self._path):
                self._read(read_mark(self._mark_path))
        except OSError as error:
            raise self._failed(error) from error
        except JournalDamagedError as error:
            self.trouble = f"{self._path}: {error}"
            raise

    def _found(self) -> Stamp | None:
        """What is at the path; when somebody has moved the file away, the next record begins another journal."""
        try:
            found = stamp_at(self._path)
        except OSError as error:
            raise self._failed(error) from error
        if found is None:
            if self.end.sequence:
                logger.warning(
                    "the journal is no longer here, path=%s journal=%s records=%d undelivered=%d",
                    self._path,
                    self.end.journal,
                    self.end.sequence,
                    self.undelivered,
                )
            self.close()
            self.end, self._mark, self.trouble = JournalEnd(), None, ""
        return found

    def _recover(self, torn: bytes) -> None:
        """Put a torn end aside, then cut it off: in this order, so that no crash loses it."""
        sha256 = hashlib.sha256(torn).hexdigest()
        aside = self._path.with_name(f"{self._path.name}.torn-{sha256[:16]}")
        write_atomically(aside, torn, _MODE)
        os.ftruncate(self._fd, self._size)
        os.fsync(self._fd)
        self._stamp = leave(self._fd)
        reason = f"a crash had torn {len(torn)} bytes off the end: {aside.name}, SHA-256 {sha256}"
        logger.warning("journal recovered, path=%s torn=%d", self._path, len(torn))
        self.append(Draft(JournalOperation.RECOVERED, secrets.token_hex(16), reason=reason))

    def check(self) -> None:
        """Find out whether a record could be written now, before a key is used for one.

        Raises:
            JournalUnavailableError: as far as can be known, it could not, or it would continue a damaged chain.
        """
        self._look()
        try:
            require_room(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        self.trouble = ""

    def append(self, draft: Draft) -> JournalRecord:
        """Write one record; the disk has it when this returns.

        Raises:
            JournalUnavailableError: it has not, and nothing of it stays.
        """
        self._look()
        record = draft.placed(self.end, self._clock())
        line = record.line() + b"\n"
        try:
            self._broken = True  # until all of it is written: an exception leaves it so
            write_all(self._fd, line, self._size)
            self._stamp = leave(self._fd)  # before the disk has it, which takes a while: another may write meanwhile
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        self._broken, self.trouble = False, ""
        self._size += len(line)
        self._tail = (self._tail + line)[-mmap.PAGESIZE :]
        self.end = JournalEnd(record.journal, record.sequence, record.hash())
        return record

    def next_report(self) -> tuple[JournalRecord, ...]:
        """The oldest records that no oracle has, as many as fit into one report; none when all are delivered.

        Raises:
            JournalUnavailableError: the file cannot be read, or is damaged.
        """
        if self._found() is None:
            return ()
        self._look()
        try:
            data = os.pread(self._fd, min(MAX_REPORT_BYTES, self._size - self._unreported), self._unreported)
        except OSError as error:
            raise self._failed(error) from error
        lines = whole_lines(data[: data.rfind(b"\n") + 1])[:MAX_REPORT_RECORDS]
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
        if self._found() is None or last.journal != self.end.journal:
            return  # it was moved away meanwhile: a mark here would be taken for the next one's
        mark = Delivered(last.journal, last.sequence, last.hash())
        plain = unstructured(mark)
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
        self._fd, self._stamp, self._broken = -1, None, False

    def _repair(self) -> None:
        os.ftruncate(self._fd, self._size)
        write_all(self._fd, self._tail, self._size - len(self._tail))
        os.fsync(self._fd)
        self._broken, self._stamp = False, None

    def _failed(self, error: OSError) -> JournalUnavailableError:
        self.trouble = f"{self._path}: {error.strerror}"
        if self._broken and self._fd >= 0:
            try:
                self._repair()
            except OSError as second:
                self.trouble += f"; and it cannot be cut back: {second.strerror}"
        return JournalUnavailableError(self.trouble)


def _require_same_end(end: JournalEnd, ours: JournalEnd, behind: int) -> None:
    if end.journal != ours.journal or end.sequence != ours.sequence:
        raise JournalDamagedError(
            f"it ends with record {end.sequence}, and this relay wrote record {ours.sequence} last"
        )
    if end != ours:
        raise JournalDamagedError(f"record {end.sequence} is not the one that this relay wrote")
    if behind:
        raise JournalDamagedError(f"{behind} bytes stand behind record {end.sequence}, and this relay wrote none there")
