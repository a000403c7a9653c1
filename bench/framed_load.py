"""A client of the oracle's own port: framed `sign` requests over TLS, many in flight on one connection.

It bypasses relay and gpg, so that oracle and signer together can be held against raw signing.
"""

import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.frames import FrameReader, encode_frame
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, PROTOCOL_VERSION, Hello, Sign, Welcome

__all__ = ["Access", "signing_rate"]

_WINDOW = 32  # requests in flight: enough to keep both cores busy, few enough for any oracle's limit
_PLACEHOLDER = "f" * 32
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Access:
    """Where the oracle is, and what a runner needs to be let in."""

    address: str  # host:port
    server_name: str
    authority: Path
    certificate: Path
    key: Path
    token: str


def _connect(access: Access) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(access.authority))
    context.load_cert_chain(access.certificate, access.key)
    host, _, port = access.address.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=access.server_name)


def _payloads(stream: ssl.SSLSocket, reader: FrameReader) -> list[bytes]:
    """Every whole payload there is, at least one."""
    payloads: list[bytes] = []
    while not payloads:
        data = stream.recv(262_144)
        if not data:
            raise RuntimeError("the oracle closed the connection")
        reader.receive_data(data)
        while (payload := reader.next_payload()) is not None:
            payloads.append(payload)
    return payloads


def _welcomed(stream: ssl.SSLSocket, reader: FrameReader, token: str) -> Welcome:
    stream.sendall(encode_frame(FROM_RELAY.encode(Hello(PROTOCOL_VERSION, token, "bench"))))
    match FROM_ORACLE.decode(_payloads(stream, reader)[0]):
        case Welcome() as welcome:
            return welcome
        case answer:
            raise RuntimeError(f"no welcome: {answer}")


def signing_rate(access: Access, keygrip: str, seconds: float) -> float:
    """Signatures a second through oracle and signer with this key, measured for `seconds`."""
    digest = Digest(HashAlgorithm.SHA512, b"Z" * 64)
    template = encode_frame(
        FROM_RELAY.encode(Sign(id=_PLACEHOLDER, keygrip=Keygrip.parse(keygrip), digest=digest, remaining_ms=60_000))
    )
    with _connect(access) as stream:
        reader = FrameReader()
        window = min(_WINDOW, _welcomed(stream, reader, access.token).max_in_flight)
        prefix = time.time_ns()
        sent = 0
        signed = 0

        def requests(count: int) -> bytes:
            nonlocal sent
            frames = []
            for _ in range(count):
                sent += 1
                frames.append(template.replace(_PLACEHOLDER.encode(), b"%020x%012x" % (prefix, sent)))
            return b"".join(frames)

        start = time.perf_counter()
        stream.sendall(requests(window))
        while (now := time.perf_counter()) < start + seconds:
            payloads = _payloads(stream, reader)
            for payload in payloads:
                if b'"type":"signed"' not in payload:
                    raise RuntimeError(f"not signed: {payload[:300]!r}")
            signed += len(payloads)
            stream.sendall(requests(len(payloads)))
        return signed / (now - start)
