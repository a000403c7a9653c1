"""A client of the oracle's own port: framed `sign` requests over TLS, many in flight on one connection.

It bypasses relay and gpg, so that oracle and signer together can be held against raw signing.
"""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.frames import FrameReader, encode_frame
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, PROTOCOL_VERSION
from agentproxy.protocol.oracle_messages import Welcome
from agentproxy.protocol.relay_messages import Hello, Sign

__all__ = ["Access", "FramedClient", "flood", "signing_rate", "single_p50_ms"]

_WINDOW = 32  # requests in flight: enough to keep both cores busy, few enough for any oracle's limit
_PLACEHOLDER = "f" * 32
_PER_CONNECTION = 250  # below what one connection may have in flight
_ANSWER_SECONDS = 60.0
_REMAINING_MS = 60_000


@dataclass(frozen=True, slots=True)
class Access:
    """Where the oracle is, and what a runner needs to be let in."""

    address: str  # host:port
    server_name: str
    authority: Path
    certificate: Path
    key: Path
    token: str


class FramedClient:
    """One connection to the oracle, and requests to sign with one key.

    Args:
        access: whom to ask, and as which runner.
        keygrip: of the key that signs.
    """

    def __init__(self, access: Access, keygrip: str) -> None:
        self._template = encode_frame(FROM_RELAY.encode(_request(keygrip)))
        self._reader = FrameReader()
        self._prefix = time.time_ns()
        self._sent = 0
        context = ssl.create_default_context(cafile=str(access.authority))
        context.load_cert_chain(access.certificate, access.key)
        host, _, port = access.address.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = context.wrap_socket(plain, server_hostname=access.server_name)
        self._stream.sendall(encode_frame(FROM_RELAY.encode(Hello(PROTOCOL_VERSION, access.token, "bench"))))
        answer = FROM_ORACLE.decode(self._payloads()[0])
        if answer.tag != Welcome.tag:
            raise RuntimeError(f"no welcome: {answer}")

    def close(self) -> None:
        """End the connection."""
        self._stream.close()

    def ask(self, count: int) -> None:
        """Send `count` requests in one write."""
        frames = []
        for _ in range(count):
            self._sent += 1
            frames.append(self._template.replace(_PLACEHOLDER.encode(), b"%020x%012x" % (self._prefix, self._sent)))
        self._stream.sendall(b"".join(frames))

    def signed(self) -> int:
        """Wait for answers; how many came, all of them signatures."""
        payloads = self._payloads()
        for payload in payloads:
            if b'"type":"signed"' not in payload:
                raise RuntimeError(f"not signed: {payload[:300]!r}")
        return len(payloads)

    def _payloads(self) -> list[bytes]:
        """Every whole payload there is, at least one."""
        payloads: list[bytes] = []
        while not payloads:
            data = self._stream.recv(262_144)
            if not data:
                raise RuntimeError("the oracle closed the connection")
            self._reader.receive_data(data)
            while (payload := self._reader.next_payload()) is not None:
                payloads.append(payload)
        return payloads


def _request(keygrip: str) -> Sign:
    digest = Digest(HashAlgorithm.SHA512, b"Z" * 64)
    return Sign(id=_PLACEHOLDER, keygrip=Keygrip.parse(keygrip), digest=digest, remaining_ms=_REMAINING_MS)


def signing_rate(access: Access, keygrip: str, seconds: float) -> float:
    """Signatures a second through oracle and signer with this key, measured for `seconds`."""
    with closing(FramedClient(access, keygrip)) as client:
        signed = 0
        start = time.perf_counter()
        client.ask(_WINDOW)
        while (now := time.perf_counter()) < start + seconds:
            answered = client.signed()
            signed += answered
            client.ask(answered)
        return signed / (now - start)


def single_p50_ms(access: Access, keygrip: str, count: int) -> float:
    """Median milliseconds of one signature after the other."""
    times = []
    with closing(FramedClient(access, keygrip)) as client:
        for _ in range(count):
            start = time.perf_counter()
            client.ask(1)
            client.signed()
            times.append((time.perf_counter() - start) * 1000)
    return median(times)


@contextmanager
def flood(access: Access, keygrip: str, digests: int) -> Iterator[None]:
    """Keep about `digests` requests of one runner waiting at the oracle, on as many connections as that takes."""
    clients = [FramedClient(access, keygrip) for _ in range(digests // _PER_CONNECTION)]
    for client in clients:
        client.ask(_PER_CONNECTION)
    stop = threading.Event()

    def refill(client: FramedClient) -> None:
        while not stop.is_set():
            client.ask(client.signed())

    threads = [threading.Thread(target=refill, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread, client in zip(threads, clients, strict=True):
            thread.join()
            client.close()
