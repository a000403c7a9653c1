"""One process at a time: a lock that the kernel gives back when its holder dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentproxy.protocol.errors import ConfigError

__all__ = ["held"]


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock `path` for as long as the block lasts; the file stays, with its last holder's pid in it.

    Args:
        what: who holds such a lock, such as "oracle".

    Raises:
        ConfigError: another process holds it, or it cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        _lock(descriptor, path, what)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        hint = f"ps {pid}" if pid.isdigit() else ""
        raise ConfigError(f"{path}: another {what} works here, pid {pid or 'unknown'}", hint) from error
