"""One process at a time: a lock that the kernel gives back when its holder dies, however it dies.

The file says who holds it, so it can be told something, too.
"""

import fcntl
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentproxy.protocol.errors import ConfigError

__all__ = ["held", "signal_holder"]

_PID = re.compile(r"[1-9][0-9]{0,6}")
_UID = re.compile(r"^Uid:\t([0-9]+)\t", re.MULTILINE)  # the real one

_LOOK_SECONDS = 0.02


@contextmanager
def held(path: Path, what: str, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock `path` for as long as the block lasts; the file stays, with its last holder's pid in it.

    Args:
        what: who holds such a lock, such as "oracle".
        patience_seconds: how long to wait for another holder to end; it blocks.

    Raises:
        ConfigError: another process holds it, or it cannot be made.
    """
    try:
        descriptor = _opened(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        _lock(descriptor, path, what, time.monotonic() + patience_seconds)
        # The pid is a courtesy, for which a full disk has no room.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    if os.geteuid() == 0:
        # As with all that root writes: the daemon whose directory it is must be able to lock it, too.
        owner = path.parent.stat()
        with suppress(OSError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def _lock(descriptor: int, path: Path, what: str, until: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise _taken(descriptor, path, what) from error
        time.sleep(_LOOK_SECONDS)


def _taken(descriptor: int, path: Path, what: str) -> ConfigError:
    pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    hint = f"ps {pid}" if pid.isdigit() else ""
    return ConfigError(f"{path}: another {what} works here, pid {pid or 'unknown'}", hint)


def signal_holder(path: Path, number: signal.Signals, what: str) -> int:
    """Send a signal to the process that holds the lock `path`, and to no other; its pid.

    Args:
        what: who holds such a lock, as for `held`.

    Raises:
        ConfigError: nobody holds it, or we may not look or send.
    """
    hint = f"run this as root, or as the {what}'s user"
    try:
        with open(path, "rb", opener=_without_links) as file:
            return _signal(file.fileno(), path, number)
    except (FileNotFoundError, ProcessLookupError) as error:
        reads_anyway = "one that starts reads everything anew anyway"
        raise ConfigError(f"{path}: no {what} runs here", reads_anyway) from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint) from error


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _signal(descriptor: int, path: Path, number: signal.Signals) -> int:
    pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    if _PID.fullmatch(pid) is None:
        raise ProcessLookupError
    # First a grip on the process, then the proof that it is the one: pids are given out again.
    process = os.pidfd_open(int(pid))
    try:
        if not _is_locked(descriptor):
            raise ProcessLookupError
        _check_owner(descriptor, path, int(pid))
        signal.pidfd_send_signal(process, number)
    finally:
        os.close(process)
    return int(pid)


def _is_locked(descriptor: int) -> bool:
    try:
        # Shared, and given back at once; one that starts in just these microseconds finds the place taken, and says so.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _check_owner(descriptor: int, path: Path, pid: int) -> None:
    # Whoever owns the file writes what he likes into it: root must not signal somebody else's process for them.
    found = _UID.search(Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace"))
    if found is None or int(found[1]) != os.fstat(descriptor).st_uid:
        raise ConfigError(f"{path}: pid {pid} is no process of the file's owner", f"ps {pid}")
