"""One command at a time reads a file, changes it and writes it: of two at once, the later would take back the other.

The lock is a file beside the target, so that only who may change the target's directory can hold it, and it goes with
its holder: the kernel gives the lock of a killed one back, and the next command takes the file away.
"""

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from agentproxy.protocol.errors import ConfigError

__all__ = ["changing"]

WAIT_SECONDS = 10.0  # a change takes some tens of milliseconds, or a second for a policy of thousands of runners
_STEP_SECONDS = 0.02


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Let no other command change the file `path`, which need not be there yet, for as long as the block lasts.

    What is read before it may have changed: read it inside. It waits for up to WAIT_SECONDS.

    Raises:
        ConfigError: another command takes longer, or the file's directory cannot be written.
    """
    target = path.resolve()
    lock = target.with_name(f".{target.name}.lock")
    try:
        descriptor = _acquired(lock, path)
    except OSError as error:
        hint = f"another user's command works here, or was killed: then remove {lock}" if lock.exists() else ""
        raise ConfigError(f"{path}: cannot be changed: {lock}: {error.strerror}", hint) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _acquired(lock: Path, path: Path) -> int:
    end = time.monotonic() + WAIT_SECONDS
    while True:
        descriptor = _opened(lock)
        try:
            if _is_ours(descriptor, lock):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > end:
            message = f"{path}: another command has been changing it for {WAIT_SECONDS:g} s"
            raise ConfigError(message, f"try again later; fuser {lock} names it")
        time.sleep(_STEP_SECONDS)


def _opened(lock: Path) -> int:
    # Nothing is written into it: as root, in a daemon's directory, it may be a hard link to somebody else's file.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(lock, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            return os.open(lock, flags)
        return _opened(lock)  # its holder has just taken it away
    if os.geteuid() == 0:
        owner = lock.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def _is_ours(descriptor: int, lock: Path) -> bool:
    """Whether we hold the lock, and of the file that has the name: its last holder took the one before away."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{lock}: expected a file")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(status, lock.stat(follow_symlinks=False))
    except (BlockingIOError, FileNotFoundError):
        return False
