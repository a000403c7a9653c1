"""What a relay costs its runner, held against a trio program that only listens and answers."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.agent_load import Target
from bench.processes import private_kib

__all__ = [
    "activated_answer_seconds",
    "bare",
    "connection_kib",
    "first_answer",
    "first_answer_seconds",
    "idle_connections",
]

_START_SECONDS = 20.0
_BARE = Path(__file__).with_name("bare.py")


def _connect(path: Path) -> socket.socket:
    """Connect to a socket that a starting program may not have made yet."""
    end = time.perf_counter() + _START_SECONDS
    while True:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(_START_SECONDS)
        try:
            stream.connect(str(path))
        except OSError:
            stream.close()
            if time.perf_counter() > end:
                raise
            time.sleep(0.002)
        else:
            return stream


def _answer(stream: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n") or not received[:-1].rpartition(b"\n")[2].startswith((b"OK", b"ERR")):
        data = stream.recv(65536)
        if not data:
            raise RuntimeError("closed before it answered")
        received += data
    return received


@contextmanager
def bare(path: Path) -> Iterator[int]:
    """Run the bare program and give its process id."""
    process = subprocess.Popen([sys.executable, "-I", _BARE, path])
    try:
        with _connect(path) as stream:
            _answer(stream)
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def idle_connections(path: Path, count: int) -> Iterator[None]:
    """Keep `count` connections open that have been greeted and say nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            stream = stack.enter_context(_connect(path))
            _answer(stream)
        yield


def connection_kib(pid: int, path: Path, count: int) -> float:
    """KiB that one more connection costs, from `count` of them."""
    with idle_connections(path, 10):
        before = private_kib(pid)
        with idle_connections(path, count):
            return (private_kib(pid) - before) / count


def first_answer_seconds(
    command: list[str], path: Path, target: Target | None, environment: dict[str, str] | None = None
) -> float:
    """Seconds from starting `command` to its first answer: a signature by `target`'s key, or the greeting."""
    path.unlink(missing_ok=True)
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment or os.environ, stderr=subprocess.DEVNULL)
    try:
        first_answer(path, target)
        return time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


def activated_answer_seconds(
    command: list[str], path: Path, target: Target | None, environment: dict[str, str] | None = None
) -> float:
    """The same from the first connection to a socket that systemd-socket-activate holds, which starts `command`."""
    path.unlink(missing_ok=True)
    kept = [f"-E{name}={value}" for name, value in (environment or {}).items() if name.startswith("BLIND_ORACLE_")]
    activate = ["systemd-socket-activate", "-l", str(path), "--fdname=gpg", *kept, *command]
    process = subprocess.Popen(activate, stderr=subprocess.DEVNULL)
    try:
        while not path.is_socket():
            time.sleep(0.002)
        start = time.perf_counter()
        first_answer(path, target)
        return time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


def first_answer(path: Path, target: Target | None) -> None:
    """Connect, and get one signature by `target`'s key, or one answer."""
    with _connect(path) as stream:
        _answer(stream)
        for line in (*target.preparation(), b"PKSIGN\n") if target else (b"NOP\n",):
            stream.sendall(line)
            answer = _answer(stream)
            if answer.startswith(b"ERR"):
                raise RuntimeError(answer.decode(errors="replace"))
