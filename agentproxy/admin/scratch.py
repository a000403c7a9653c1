"""A GnuPG home for the length of one import: a foreign key meets gpg here first, never in the signer's own home."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import gnupg

from agentproxy.admin.dev.processes import end, find
from agentproxy.protocol.errors import ConfigError

__all__ = ["scratch_home", "time_limit"]

_MEMORY = Path("/dev/shm")  # noqa: S108  so that secrets never touch a disk; the directory below it is private
_STOP_SECONDS = 30
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOST_SOCKETS = 8  # an agent makes four
_OPTIONS = ["--disable-dirmngr", "--no-auto-check-trustdb", "--trust-model=always"]
_AGENT_OPTIONS = "disable-scdaemon\nmax-cache-ttl 0\nno-allow-external-cache\n"


@contextlib.contextmanager
def scratch_home() -> Iterator[tuple[Path, gnupg.GPG]]:
    """An empty home with python-gnupg on it; agent and files are gone at the end.

    Raises:
        ConfigError: gpg is not installed.
    """
    # A short path: the agent's socket in it has at most 107 octets.
    parent = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    with _signals_wait() as from_here:
        home = Path(tempfile.mkdtemp(prefix="bo", dir=parent))
        try:
            (home / "gpg-agent.conf").write_text(_AGENT_OPTIONS, encoding="ascii")
            gpg = gnupg.GPG(gnupghome=str(home), options=_OPTIONS)
            # A character for each byte: gpg tells user IDs as they are, in old keys of any encoding. What cannot be
            # decoded ends python-gnupg's reader, and what was imported counts for nothing.
            gpg.encoding = "latin-1"
            yield home, gpg
        except OSError as error:
            raise ConfigError(f"gpg cannot be run: {error}", "install the package gnupg") from error
        finally:
            try:
                from_here()
            finally:  # a first signal may come just before that
                _stop_agent(home)
                _remove(home)


@contextlib.contextmanager
def _signals_wait() -> Iterator[Callable[[], None]]:
    """Let SIGINT, SIGTERM and SIGHUP interrupt the block once, and not at all from the call of what it gets.

    Somebody who presses Ctrl-C twice, or whose terminal goes away, must not interrupt what takes the secrets away. A
    signal that comes then, and no other came before, is raised behind the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # Python interrupts the main thread only
        return
    before = {int(number): signal.getsignal(number) for number in _SIGNALS}
    waiting: list[int] = []
    is_interrupted = is_ending = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal is_interrupted
        if is_interrupted or is_ending:
            waiting.append(number)
            return
        is_interrupted = True
        handler = before[number]
        if callable(handler):
            handler(number, frame)

    def from_here() -> None:
        nonlocal is_ending
        is_ending = True

    handled = [number for number, handler in before.items() if callable(handler)]
    for number in handled:
        signal.signal(number, on_signal)
    try:
        yield from_here
    finally:
        for number in handled:
            signal.signal(number, before[number])
    if waiting:
        signal.raise_signal(waiting[0])


def _stop_agent(home: Path) -> None:
    # An agent that stays would keep an unlocked key in memory. A terminal signals a whole group, so gpgconf leaves it.
    for what in ("--kill", "gpg-agent"), ("--remove-socketdir",):  # the second is below /run/user
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                ["gpgconf", "--homedir", str(home), *what],
                check=False,
                capture_output=True,
                timeout=_STOP_SECONDS,
                start_new_session=True,
            )
    # It ends a moment after it was told to; and a gpg that outlived us would start another.
    for process in find(at=home):
        with contextlib.suppress(ConfigError):
            end(process, _STOP_SECONDS)


def _remove(home: Path) -> None:
    # An agent that was told to end removes its sockets meanwhile: what rmtree has listed may be gone.
    for _ in range(_MOST_SOCKETS):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(home)
            return
    shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Kill what this thread has started (python-gnupg knows no limit) when `seconds` are over.

    Raises:
        ConfigError: the time was over.
    """
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    over = threading.Event()

    def kill() -> None:
        over.set()
        for pid in children.read_text(encoding="ascii").split():
            os.kill(int(pid), signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if over.is_set():
            raise ConfigError(f"gpg did not finish within {seconds:g} s", "is it a key file, and a reasonable one?")
