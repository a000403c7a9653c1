"""A GnuPG home for the length of one import: a foreign key meets gpg here first, never in the signer's own home."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import gnupg

from agentproxy.protocol.errors import ConfigError

__all__ = ["scratch_home", "time_limit"]

_MEMORY = Path("/dev/shm")  # noqa: S108  so that secrets never touch a disk; the directory below it is private
_STOP_SECONDS = 30
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
    home = Path(tempfile.mkdtemp(prefix="bo", dir=parent))
    try:
        (home / "gpg-agent.conf").write_text(_AGENT_OPTIONS, encoding="ascii")
        gpg = gnupg.GPG(gnupghome=str(home), options=_OPTIONS)
        gpg.encoding = "utf-8"
        yield home, gpg
    except OSError as error:
        raise ConfigError(f"gpg cannot be run: {error}", "install the package gnupg") from error
    finally:
        _stop_agent(home)
        _remove(home)


def _stop_agent(home: Path) -> None:
    # An agent that stays would keep an unlocked key in memory.
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        for what in (
            ("--kill", "gpg-agent"),
            ("--remove-socketdir",),
        ):  # the second is below /run/user
            subprocess.run(
                ["gpgconf", "--homedir", str(home), *what], check=False, capture_output=True, timeout=_STOP_SECONDS
            )


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
