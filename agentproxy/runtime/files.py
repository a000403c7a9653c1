"""Files that must be there whole or not at all, and files that nobody else may read."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentproxy.protocol.errors import ConfigError

__all__ = ["make_directory", "read_beginning", "read_private", "sync_directory", "write_atomically", "written_beside"]


def make_directory(path: Path, mode: int) -> None:
    """Make `path` and what is missing above it; what is there stays as it is.

    As root, each belongs to the owner of the directory that it is made in.

    Raises:
        OSError: it cannot be made, or something else is there.
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_directory(path.parent, 0o755)
    path.mkdir(mode=mode, exist_ok=True)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Replace `path` by `data` with permission bits `mode`; on return it is on disk, after a crash it is old or new.

    What root writes belongs to the owner of the directory: a daemon could not read root's 0600 file in its own place.

    Raises:
        OSError: the directory cannot be written; the old file is untouched.
    """
    with written_beside(path, data, mode) as temporary:
        temporary.replace(path)
    sync_directory(path.parent)


@contextmanager
def written_beside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """The first half of `write_atomically`, for files that belong together: `data` on disk under a name beside `path`.

    Whoever renames it calls `sync_directory` afterwards; when the block raises, it is removed.

    Raises:
        OSError: the directory cannot be written.
    """
    # mkstemp makes the file 0600: a secret is never readable in between.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        _fill(descriptor, path, data, mode)
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _fill(descriptor: int, path: Path, data: bytes, mode: int) -> None:
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if os.geteuid() == 0:
                owner = path.parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except OSError as error:
        # A descriptor's error, such as that of a full disk, has no name; of several files, callers ask it which it was.
        error.filename = error.filename or str(path)
        raise


def sync_directory(directory: Path) -> None:
    """Make the names in a directory last: without it a rename may be lost with the power.

    Raises:
        OSError: it cannot be.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_beginning(path: Path, size: int) -> bytes:
    """Read at most `size` bytes of a file, or of a pipe that is open already, as `/dev/stdin` and `<(…)` name one.

    A FIFO is none of these: nobody may ever write to it. A size of -1 means all of it.

    Raises:
        ConfigError: it is missing, cannot be read, or is something else.
    """
    try:
        # Without waiting: to open a FIFO takes until somebody opens its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            _check_readable(path, os.fstat(descriptor).st_mode)
            os.set_blocking(descriptor, True)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _check_readable(path: Path, mode: int) -> None:
    # A pipe without a name of its own was opened for us; only /proc knows it.
    is_pipe = stat.S_ISFIFO(mode) and os.path.realpath(path).startswith("/proc/")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or is_pipe):  # to read a directory says itself what is wrong
        raise ConfigError(f"{path}: expected a file")


def read_private(path: Path) -> bytes:
    """Read a secret that only its owner can read: we, root, or for root the daemon in whose directory it lies.

    Raises:
        ConfigError: it is missing, cannot be read, is not a file, belongs to somebody else, or group or others may
            read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # What was opened is checked: the name may point elsewhere a moment later.
            _check_private(path, os.fstat(descriptor))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: expected a file")
    if status.st_uid not in _owners(path):
        raise ConfigError(f"{path}: belongs to uid {status.st_uid}, expected {os.geteuid()} or root")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"{path}: others may read it (mode {mode:04o}), expected 0600", f"chmod 600 {path}")


def _owners(path: Path) -> set[int]:
    # The operator's commands run as root with a daemon's files: what lies in its directory may be its own.
    ours = os.geteuid()
    return {0, ours} if ours != 0 else {0, path.parent.stat().st_uid}
