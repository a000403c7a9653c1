"""Clients of an agent's socket that do what gpg does for a signature, and nothing else.

The same code drives our relay and a real gpg-agent, so its own cost falls on both alike.
"""

import selectors
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

__all__ = ["Target", "new_caller_us", "pksign_p50_us", "pksign_rate"]

_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask to sign with which key."""

    socket: Path
    keygrip: str

    def preparation(self) -> tuple[bytes, ...]:
        """Everything that gpg sends before PKSIGN, for a SHA-512 digest."""
        return (b"RESET\n", b"SIGKEY %s\n" % self.keygrip.encode(), b"SETHASH 10 %s\n" % (b"5A" * 64))


class _Connection:
    """One client: it sends a command, and the next one when the answer has come."""

    def __init__(self, target: Target) -> None:
        self._commands = (*target.preparation(), b"PKSIGN\n")
        self._next = 0
        self._received = bytearray()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(_ANSWER_SECONDS)
        self.socket.connect(str(target.socket))
        self.read_answer()

    def send_next(self) -> None:
        self.socket.sendall(self._commands[self._next])

    def read_answer(self) -> bool:
        """Read once; True when the answer to the current command is whole."""
        data = self.socket.recv(65536)
        self._received += data
        if not data or not self._received.endswith(b"\n"):
            if not data:
                raise RuntimeError("the agent closed the connection")
            return False
        last = self._received[:-1].rpartition(b"\n")[2]
        if last.startswith(b"ERR"):
            raise RuntimeError(f"the agent answered {last.decode(errors='replace')}")
        return last.startswith(b"OK")

    def advance(self) -> bool:
        """Go to the next command; True when a signature has just been completed."""
        self._received.clear()
        self._next = (self._next + 1) % len(self._commands)
        return self._next == 0

    def step(self) -> bool:
        """Send a command and wait for its answer; True after PKSIGN's."""
        self.send_next()
        while not self.read_answer():
            pass
        return self.advance()


def new_caller_us(target: Target) -> float:
    """Microseconds from choosing the key to the signature, on a connection of its own."""
    connection = _Connection(target)
    with connection.socket:
        connection.step()  # RESET
        start = time.perf_counter()
        while not connection.step():
            pass
        return (time.perf_counter() - start) * 1e6


def pksign_p50_us(target: Target, count: int) -> float:
    """Median time in microseconds from sending PKSIGN to its OK, one client, `count` signatures."""
    connection = _Connection(target)
    times = []
    with connection.socket:
        for _ in range(count):
            for _ in target.preparation():
                connection.step()
            start = time.perf_counter()
            connection.step()
            times.append((time.perf_counter() - start) * 1e6)
    return median(times)


def pksign_rate(target: Target, clients: int, seconds: float) -> float:
    """Signatures a second with `clients` connections, each starting over as soon as it is answered."""
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(clients):
            connection = _Connection(target)
            stack.enter_context(connection.socket)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send_next()
        signed = 0
        start = time.perf_counter()
        end = start + seconds
        while (now := time.perf_counter()) < end:
            for key, _ in selector.select(_ANSWER_SECONDS):
                connection = key.data
                if connection.read_answer():
                    signed += connection.advance()
                    connection.send_next()
        return signed / (now - start)
