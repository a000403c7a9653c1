"""The journal's file as the kernel shows it: how it was left, so that another hand shows, and bytes at their places.

A time stamp alone would not do: the kernel's clock for files stands still for some milliseconds, in which another's
write of the same length would go unseen. So whoever writes sets the file's time by the exact clock afterwards.
"""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from agentproxy.protocol.journal import MAX_RECORD
from agentproxy.protocol.values import frozen

__all__ = ["Stamp", "content", "leave", "require_room", "stamp_at", "sync_directory", "write_all"]

# A record is much smaller; a file system that has less is full for us, before a key is used in vain.
_ROOM = 2 * MAX_RECORD


@frozen
class Stamp:
    """What changes whenever somebody writes into a file, or puts another in its place."""

    file: tuple[int, int]  # device and inode: the same file, whatever happened to it, while one has it open
    size: int
    written: int  # nanoseconds
    changed: int  # nanoseconds; nobody but the kernel sets this one

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """The stamp in what `stat` and `fstat` say."""
        return cls((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def stamp_at(path: Path) -> Stamp | None:
    """What the path leads to now; None: there is nothing.

    Raises:
        OSError: nobody can say.
    """
    try:
        return Stamp.of(path.lstat())
    except FileNotFoundError:
        return None


def leave(descriptor: int) -> Stamp:
    """Set the time of our own write, directly behind it; how the file is left."""
    now = time.time_ns()
    with suppress(PermissionError):  # another owner's: then the kernel's own times must do
        os.utime(descriptor, ns=(now, now))
    return Stamp.of(os.fstat(descriptor))


def require_room(descriptor: int) -> None:
    """Raise OSError when the file system has no room for a record."""
    space = os.fstatvfs(descriptor)
    if space.f_bavail * space.f_frsize < _ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def content(descriptor: int) -> bytes:
    """All bytes of a file."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return file.read()


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data`, or raise OSError."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def sync_directory(directory: Path) -> None:
    """Have the disk know of a new file."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
