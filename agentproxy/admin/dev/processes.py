"""Background processes that outlive the command that started them, and that no later command mistakes for others.

A pid is used again after its process. So a process is remembered with the moment of its start, and signals go through
a pidfd that was opened before that moment was compared (pidfd_open(2)).
"""

import json
import os
import re
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import write_atomically

__all__ = ["Process", "end", "find", "recall", "remember", "spawn"]

_GONE = frozenset("ZX")  # a zombie waits for a parent that may never ask
_STARTED = 19  # fields after the command's name in /proc/PID/stat, proc(5): starttime is the 22nd in all
_PID = re.compile(r"[1-9][0-9]*")
_KILL_SECONDS = 10.0


@frozen
class Process:
    """One process since the machine's start."""

    pid: int
    started: int  # clock ticks after the boot
    boot: str  # which boot

    @property
    def is_running(self) -> bool:
        """Whether it, and not a later process with its pid, runs."""
        return _identify(self.pid) == self


def _identify(pid: int) -> Process | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name before the last parenthesis may hold anything.
    fields = status.rpartition(")")[2].split()
    if fields[0] in _GONE:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Process(pid, int(fields[_STARTED]), boot)


def spawn(command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> Process:
    """Start a process in a session of its own, with its output appended to `log`.

    Raises:
        ConfigError: the program or the log is not there.
    """
    words = [os.fspath(word) for word in command]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawn(
            words[0],
            words,
            environment,
            setsid=True,  # a Ctrl-C in the terminal is not for it
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.fspath(log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
    except OSError as error:
        raise ConfigError(f"{words[0]}: cannot be started: {error.strerror}") from error
    return _identify(pid) or Process(pid, 0, "")


def remember(file: Path, process: Process) -> None:
    """Write a pid file."""
    content = {"pid": process.pid, "started": process.started, "boot": process.boot}
    write_atomically(file, json.dumps(content).encode("ascii") + b"\n", 0o600)


def recall(file: Path) -> Process | None:
    """The process of a pid file if it still runs; None as well when there is no such file, or no sense in it."""
    try:
        content = json.loads(file.read_bytes())
        process = Process(content["pid"], content["started"], content["boot"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    return process if type(process.pid) is int and process.pid > 1 and process.is_running else None


def find(*words: str, at: Path) -> Iterator[Process]:
    """Our own processes that have all of `words`, and `at` or something below it, among their arguments."""
    below = f"{at}/"
    for entry in Path("/proc").iterdir():
        if _PID.fullmatch(entry.name) is None or int(entry.name) == os.getpid():
            continue
        process = _identify(int(entry.name))
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
            is_ours = entry.stat().st_uid == os.geteuid()
        except OSError:
            continue  # it ended while we looked, or it is not ours to look at
        if process is None or not is_ours or not all(word in arguments for word in words):
            continue
        if any(argument == str(at) or argument.startswith(below) for argument in arguments):
            yield process


def end(process: Process, seconds: float) -> None:
    """Ask a process to end, wait for at most `seconds`, then kill it. One that ended before is no error."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # Only now that the descriptor holds on to whoever has the pid does this answer stay true.
        if not process.is_running:
            return
        for number, limit in ((signal.SIGTERM, seconds), (signal.SIGKILL, _KILL_SECONDS)):
            signal.pidfd_send_signal(descriptor, number)
            if _ended(descriptor, limit):
                return
        raise ConfigError(f"process {process.pid} does not end", "it hangs in the kernel: dmesg may say why")
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _ended(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
