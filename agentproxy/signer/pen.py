"""The file that records go into: what the disk has of it, and the zeros that lie ahead of its end.

A file that grows makes the filesystem commit its new length with each fdatasync; bytes over zeros that are on disk
already cost the bytes alone. So whenever records reach the file's end, a step of zeros is written behind them, and the
same fdatasync brings both to the disk. The record goes first: a line stands before every zero, also when the signer is
killed between the two. A file that nothing is written into any more is cut at its last newline.

After a failed write or fdatasync nobody knows what the disk holds: Linux marks pages clean whose writing failed, so a
second fdatasync may succeed without having written them. Success is therefore never taken from a repeated
fdatasync alone: `repair` cuts the file back to what an earlier fdatasync confirmed, writes the page in which that ends
and all that followed anew from memory, so that there is something dirty to write, and only then calls it again.
"""

import mmap
import os

from agentproxy.signer.checkpointfile import write_all
from agentproxy.signer.loglimits import LogLimits, require_room
from agentproxy.signer.recovery import OpenedSegment
from agentproxy.signer.segment import ZEROS_AHEAD

__all__ = ["Pen"]

MAX_UNSYNCED = 1 << 18  # bytes of records that nobody waits for, before they are synced all the same


class Pen:
    """The last segment's file, open for writing; whatever raises OSError may be tried again, after `repair`.

    Attributes:
        descriptor: of the file.
        is_broken: the file may hold more, or less, than we think.
    """

    def __init__(self, opened: OpenedSegment, limits: LogLimits) -> None:
        self.descriptor = opened.descriptor
        self.is_broken = False
        self._limits = limits
        self._durable_size = opened.size
        self._tail = opened.tail
        self._unsynced = b""
        self._filled = opened.size  # up to here there are zeros, or there was no room for them

    @property
    def size(self) -> int:
        """Bytes of records, synced or not."""
        return self._durable_size + len(self._unsynced)

    @property
    def has_unsynced(self) -> bool:
        """Whether records wait for a `sync`, or for a durable `write`."""
        return bool(self._unsynced)

    def write(self, data: bytes, *, durable: bool) -> bool:
        """Write behind the last record; whether the disk has it, and all before it, now.

        Raises:
            OSError: some of it may be written.
        """
        end = self.size + len(data)
        self.is_broken = True  # until all of it is written: an exception leaves it so
        write_all(self.descriptor, data, self.size)
        if end > self._filled:
            self._fill(end)
        synced = durable or len(self._unsynced) + len(data) > MAX_UNSYNCED
        if synced:
            os.fdatasync(self.descriptor)
        self._unsynced += data
        if synced:
            self._confirm()
        self.is_broken = False
        return synced

    def sync(self) -> None:
        """Bring records that nobody waited for to the disk.

        Raises:
            OSError: it did not work; they are kept in memory.
        """
        self.is_broken = True
        os.fdatasync(self.descriptor)
        self._confirm()

    def seal(self) -> None:
        """`sync`, and end the file at its last newline. What is written later makes it grow again.

        Raises:
            OSError: as `sync`, or there may still be zeros.
        """
        self.is_broken = True
        os.ftruncate(self.descriptor, self.size)
        self._filled = self.size
        os.fsync(self.descriptor)
        self._confirm()

    def repair(self) -> None:
        """Make the file again what it must be; see the module's docstring.

        Raises:
            OSError: it did not work, and may be tried again.
        """
        os.ftruncate(self.descriptor, self._durable_size)
        write_all(self.descriptor, self._tail + self._unsynced, self._durable_size - len(self._tail))
        os.fsync(self.descriptor)
        self._confirm()

    def _confirm(self) -> None:
        self._tail = (self._tail + self._unsynced)[-mmap.PAGESIZE :]
        self._durable_size = self.size
        self._unsynced = b""
        self.is_broken = False

    def _fill(self, end: int) -> None:
        """Put a step of zeros behind `end`, where the file ends; without room, it grows by its records instead."""
        # Also when this fails, now or in fdatasync, so that the next records are not held up by it again.
        self._filled = max(end, min(end + ZEROS_AHEAD, self._limits.rotate_bytes))
        try:
            require_room(self.descriptor, self._limits.reserve_bytes + ZEROS_AHEAD)
            write_all(self.descriptor, bytes(self._filled - end), end)
        except OSError:
            os.ftruncate(self.descriptor, end)
