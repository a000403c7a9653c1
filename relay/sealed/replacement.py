"""Putting another file in the place of one: whole or not at all, and only while the old one is still what was read.

A small package takes a few hundred microseconds here. So what is done with each is few system calls, since the
interpreter's lock is given up for each of them and has to be got back, and names are plain texts: a Path takes as long
as a system call.
"""
# ruff: noqa: PTH105, PTH108, PTH112, PTH115, PTH116, PTH118, PTH120

import contextlib
import errno
import io
import itertools
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agentproxy.protocol.values import frozen
from relay.sealed.errors import Told, UnfitError

__all__ = ["Original", "created", "opened", "replacement", "sync_directory"]

_BUFFER = 1 << 16  # bytes; named, since otherwise Python asks each time whether the file is a terminal
_NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})  # as open(2) says it
_ACCESS_LIST = "system.posix_acl_access"
# Names that no other process chooses, and none of ours twice.
_OURS = secrets.token_hex(8)
_numbers = itertools.count()


@frozen
class Original:
    """An open file, and what it was when it was opened."""

    path: str  # without symbolic links
    file: BinaryIO
    status: os.stat_result

    def check_unchanged(self) -> None:
        """Raise UnfitError when the file, or what its name leads to, is not what was opened."""
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            raise UnfitError("it was removed while it was signed") from None
        if _identity(now) != _identity(self.status):
            raise UnfitError("it changed while it was signed")

    def check_apart(self, output: Path) -> None:
        """Raise UnfitError when a file that is made from this one would take its place, or that of a device."""
        try:
            there = os.stat(output)
        except OSError:
            return  # nothing is lost with it; or to write it will say what is wrong
        if (there.st_dev, there.st_ino) == (self.status.st_dev, self.status.st_ino):
            raise UnfitError("its signature would take its own place")
        if not stat.S_ISREG(there.st_mode):
            raise UnfitError(f"what its signature would replace is no regular file: {os.fspath(output)!r}")

    @property
    def directory(self) -> str:
        """Where it lies."""
        return os.path.dirname(self.path)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    # The time of the last change of its inode: whoever writes can put the other one back, and not this.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def opened(path: Path) -> Iterator[Original]:
    """Open a regular file for reading; its symbolic links are followed once, here.

    Raises:
        UnfitError: it is something else.
        OSError: it cannot be read.
    """
    # Without waiting: a named pipe would hold us for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", _BUFFER) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnfitError("it is no regular file")
        # What the kernel followed, not what a second look at the links would find.
        yield Original(os.readlink(f"/proc/self/fd/{descriptor}"), file, status)


@contextmanager
def replacement(original: Original) -> Iterator[BinaryIO]:
    """A file to write into; at the end its content is on disk, and it takes the original's place, mode and owner.

    So it does its access list and the attributes that users set.

    An exception in the block, a kill or a power loss leaves the original; a power loss before `sync_directory` one of
    the two.

    Raises:
        UnfitError: the original has changed meanwhile.
        OSError: the file cannot be written.
    """
    status = original.status
    with contextlib.ExitStack() as stack:
        with Told(f"no new file can be made in {original.directory!r}"):
            file, place = stack.enter_context(_fresh(original.path))
        yield file
        fresh = os.fstat(file.fileno())  # whose group may be the directory's
        if (status.st_uid, status.st_gid) != (fresh.st_uid, fresh.st_gid):
            owner = f"its owner, user {status.st_uid} and group {status.st_gid}; sign as that user, in that group"
            with Told(f"what replaces it cannot be given to {owner}"):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
        with Told("its access list and attributes cannot be kept"):
            _take_over(original.file.fileno(), file.fileno())
        with Told("it cannot be replaced"):
            place(stat.S_IMODE(status.st_mode), original)


def _take_over(source: int, target: int) -> None:
    """Access list and attributes of one file for another: what its directory gives it may let others write."""
    wanted, there = (set(_attributes(descriptor)) for descriptor in (source, target))
    for name in there - wanted:
        os.removexattr(target, name)
    for name in wanted:
        os.setxattr(target, name, os.getxattr(source, name))


def _attributes(descriptor: int) -> list[str]:
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []  # this file system has none
    return [name for name in names if name == _ACCESS_LIST or name.startswith("user.")]


@contextmanager
def created(path: Path, mode: int) -> Iterator[BinaryIO]:
    """As `replacement`, for a file of which nobody cares what it was before, or whether it was.

    What root writes belongs to the owner of the directory, who could not replace it otherwise.

    Args:
        path: symbolic links are replaced, not followed.
        mode: permission bits.
    """
    with _fresh(os.fspath(path)) as (file, place):
        yield file
        if os.geteuid() == 0:
            owner = os.stat(os.path.dirname(path) or os.curdir)
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        place(mode, None)


class _Place:
    """Gives a written file its name."""

    def __init__(self, path: str, file: BinaryIO, name: str | None) -> None:
        self._path = path
        self._file = file
        self.name = name  # of the file so far; None while it has none

    def __call__(self, mode: int, original: Original | None) -> None:
        self._file.flush()
        os.fchmod(self._file.fileno(), mode)
        os.fsync(self._file.fileno())
        if self.name is None:
            self.name = _named(self._file.fileno(), self._path)
        if original is not None:
            original.check_unchanged()
        os.replace(self.name, self._path)
        self.name = None


@contextmanager
def _fresh(path: str) -> Iterator[tuple[BinaryIO, _Place]]:
    """A file without a name where the file system has such: then a kill leaves nothing behind."""
    name = None
    directory = os.path.dirname(path) or os.curdir
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES or not os.path.isdir(directory):
            raise
        name = _temporary(path)
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    raw = io.FileIO(descriptor, "wb")
    with io.BufferedWriter(raw, _BUFFER) as file:
        place = _Place(path, file, name)
        try:
            yield file, place
        except BaseException:
            raw.close()  # else leaving the file writes what it still holds, and fails anew, with less to say
            raise
        finally:
            if place.name is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(place.name)


def _temporary(path: str) -> str:
    # Not made from the file's name, which may be as long as names can be; and nothing takes it for a package.
    return os.path.join(os.path.dirname(path), f".blind-oracle-{_OURS}-{next(_numbers)}.tmp")


def _named(descriptor: int, path: str) -> str:
    """Give a file that has none a name beside `path`; open(2), O_TMPFILE, has the way."""
    name = _temporary(path)
    # What the link leads to can be named, and Python follows it only when it gets some directory, of no use here.
    os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor, follow_symlinks=True)
    return name


def sync_directory(directory: str) -> None:
    """Return once the names that are in `directory` now are on the disk. It blocks.

    Raises:
        OSError: they may not be.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
