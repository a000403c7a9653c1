"""Keep-alive connections to the HTTP API, spoken to with h11, all from one process."""

import json
import selectors
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import h11

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.hashstates import HashState
from bench.framed_load import Access

__all__ = ["HttpLoad", "HttpRound", "plain_api"]

CONNECTIONS = 32
_PLAIN = Path(__file__).with_name("plain_api.py")
_ANSWER_SECONDS = 60.0
_BODY = json.dumps({"repodata_hash": str(HashState.initial(HashAlgorithm.SHA512).updated(b"<repomd/>"))}).encode()


@dataclass(frozen=True, slots=True)
class HttpRound:
    """What one round showed."""

    rate: float  # signatures a second, at most
    p50: float  # ms, at half of that
    p99: float


@dataclass(slots=True, eq=False)
class _Client:
    """One connection with at most one request under way."""

    stream: ssl.SSLSocket
    head: h11.Request
    due: float = 0.0  # when the request under way was to be sent
    connection: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))

    def ask(self, due: float) -> None:
        self.due = due
        parts = (self.head, h11.Data(data=_BODY), h11.EndOfMessage())
        self.stream.sendall(b"".join(self.connection.send(part) or b"" for part in parts))

    def is_answered(self) -> bool:
        """Read once; whether a signature has come."""
        data = self.stream.recv(65_536)
        if not data:
            raise RuntimeError("the API closed the connection")
        self.connection.receive_data(data)
        while (event := self.connection.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response) and event.status_code != 200:
                raise RuntimeError(f"the API answered {event.status_code}")
            if isinstance(event, h11.EndOfMessage):
                self.connection.start_next_cycle()
                return True
        return False


class HttpLoad:
    """CONNECTIONS connections of one runner, which has one key only; a context manager.

    Args:
        access: the runner's credentials.
        address: host:port of the API.
    """

    def __init__(self, access: Access, address: str) -> None:
        self._stack = ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        context = ssl.create_default_context(cafile=str(access.authority))
        context.load_cert_chain(access.certificate, access.key)
        headers = [("Host", address), ("Authorization", f"Bearer {access.token}")]
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(_BODY)))]
        self._head = h11.Request(method="POST", target="/sign/repodata", headers=headers)
        self._clients = [self._connect(context, address, access.server_name) for _ in range(CONNECTIONS)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _connect(self, context: ssl.SSLContext, address: str, server_name: str) -> _Client:
        host, _, port = address.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = _Client(self._stack.enter_context(context.wrap_socket(plain, server_hostname=server_name)), self._head)
        self._selector.register(client.stream, selectors.EVENT_READ, client)
        return client

    def rate(self, seconds: float) -> float:
        """Signatures a second when each connection asks again as soon as it is answered."""
        signed, start = 0, time.perf_counter()
        under_way = len(self._clients)
        for client in self._clients:
            client.ask(start)
        now = start
        while under_way:
            for client in self._answered(None):
                now = time.perf_counter()
                signed += 1
                under_way -= 1
                if now < start + seconds:
                    client.ask(now)
                    under_way += 1
        return signed / (now - start)

    def round(self, seconds: float) -> HttpRound:
        """So many seconds as fast as it goes, and so many at half of that."""
        rate = self.rate(seconds)
        took = self._latencies_ms(rate / 2, seconds)
        return HttpRound(rate, took[len(took) // 2], took[len(took) * 99 // 100])

    def _latencies_ms(self, rate: float, seconds: float) -> list[float]:
        """Milliseconds from when each request was due, `rate` of them a second, to its answer; sorted."""
        took: list[float] = []
        idle = list(self._clients)
        start = time.perf_counter()
        asked, total = 0, int(rate * seconds)
        while len(took) < total:
            now = time.perf_counter()
            while asked < total and idle and start + asked / rate <= now:
                idle.pop().ask(start + asked / rate)
                asked += 1
            wait = start + asked / rate - time.perf_counter() if asked < total and idle else None
            for client in self._answered(wait):
                took.append((time.perf_counter() - client.due) * 1000)
                idle.append(client)
        return sorted(took)

    def _answered(self, wait: float | None) -> list[_Client]:
        if wait is not None and wait <= 0:
            wait = 0.0
        found = [key.data for key, _ in self._selector.select(_ANSWER_SECONDS if wait is None else wait)]
        return [client for client in found if client.is_answered()]


@contextmanager
def plain_api(tls: Path) -> Iterator[str]:
    """Run the plain application with the server's credentials in `tls`; its address."""
    credentials = [tls / name for name in ("server.crt", "server.key", "authority.crt")]
    with socket.create_server(
        ("127.0.0.1", 0), backlog=CONNECTIONS
    ) as listening:  # the process's alone: its end shall be seen
        address, descriptor = listening.getsockname(), listening.fileno()
        command = [sys.executable, "-I", _PLAIN, str(descriptor), *credentials]
        process = subprocess.Popen(command, pass_fds=[descriptor])
    try:
        yield f"{address[0]}:{address[1]}"
    finally:
        process.kill()
        process.wait()
