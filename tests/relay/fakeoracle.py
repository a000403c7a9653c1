"""An oracle for tests: real frames over real TLS, real signatures by a test backend, and faults on demand."""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import trio

from agentproxy.admin.dev.ports import free_ports
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.journal import JournalRecord, Report, Reported
from agentproxy.protocol.key_messages import SelectKey, ServedKey
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, FromOracle, FromRelay
from agentproxy.protocol.oracle_messages import Certificate, Credentials, Rejected, Signed, Welcome
from agentproxy.protocol.relay_messages import FetchCertificate, Hello, Ping, Pong, Sign
from agentproxy.protocol.seal_messages import Seal
from agentproxy.runtime.streams import EndOfStream, FramedStream
from agentproxy.runtime.tls import handshake
from agentproxy.runtime.tlsstream import TlsStream
from agentproxy.signer.backend import Backend

HEAD = Head("node-a", 7, bytes(range(32)))
Answerer = Callable[[Sign], Awaitable[FromOracle | bytes | None]]


class FakeOracle:
    """Signs whatever a relay asks for, unless a test replaces `answer` or `rejection`."""

    def __init__(self, context: ssl.SSLContext, backend: Backend, keys: tuple[KeyFacts, ...]) -> None:
        self._context = context
        self._backend = backend
        self.keys = tuple(ServedKey(facts, "modern") for facts in keys)
        self.certificates: dict[str, bytes] = {}
        self.answer: Answerer = self.sign
        self.seal: Callable[[Seal], Awaitable[FromOracle | None]] | None = None
        self.select: Callable[[SelectKey], FromOracle] | None = None
        self.bootstraps: dict[str, Credentials] = {}  # by the tokens of enrolment files
        self.rejection: Rejected | None = None
        self.garbage_instead_of_welcome = b""
        self.max_in_flight = 64
        self.fallback = False  # whether the policy lets the runner fall back
        self.report_answers: list[FromOracle] = []  # given before reports are taken
        self.reported: list[JournalRecord] = []
        self.received: list[FromRelay] = []
        self.connections = 0
        self.answered_hellos = 0
        self.port = 0
        self.most_in_flight = 0
        self._in_flight = 0
        self._connected = trio.Event()
        self.open: list[FramedStream] = []

    @property
    def requests(self) -> list[Sign]:
        return [message for message in self.received if isinstance(message, Sign)]

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled, each time on the same port."""
        self.port = self.port or free_ports(1)[0]  # not one that others get while we are away
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        task_status.started()
        await trio.serve_listeners(self._connection, listeners)

    async def connections_reach(self, count: int) -> None:
        with trio.fail_after(20):
            while self.connections < count:
                self._connected = trio.Event()
                await self._connected.wait()

    async def sign(self, request: Sign) -> FromOracle | bytes | None:
        signature = await trio.to_thread.run_sync(self._backend.sign, request.keygrip, request.digest)
        return Signed(request.id, signature, HEAD)

    def public_key_of(self, keygrip: Keygrip) -> object:
        return self._backend.public_key(keygrip)

    @property
    def seals(self) -> list[Seal]:
        return [message for message in self.received if isinstance(message, Seal)]

    def tell(self, message: FromOracle) -> None:
        """Send to every connected relay."""
        for stream in self.open:
            stream.send_soon(FROM_ORACLE.encode(message))

    async def _connection(self, tcp: trio.SocketStream) -> None:
        stream = TlsStream(tcp, self._context, server_side=True)
        try:
            await handshake(stream)
        except RemoteProtocolError:
            return
        self.connections += 1
        self._connected.set()
        framed = FramedStream(stream)
        self.open.append(framed)
        try:
            with suppress(Exception):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(framed.run_sender)
                    await self._read(framed, nursery)
        finally:
            self.open.remove(framed)
            with trio.CancelScope(shield=True):
                await framed.aclose()

    async def _read(self, framed: FramedStream, nursery: trio.Nursery) -> None:
        while True:
            try:
                payloads = await framed.receive()
            except EndOfStream:
                nursery.cancel_scope.cancel()
                return
            for payload in payloads:
                message = FROM_RELAY.decode(payload)
                self.received.append(message)
                nursery.start_soon(self._handle, framed, message)

    async def _handle(self, framed: FramedStream, message: FromRelay) -> None:
        match message:
            case Hello() if self.garbage_instead_of_welcome:
                framed.send_soon(self.garbage_instead_of_welcome)
            case Hello() if message.token in self.bootstraps:
                framed.send_soon(FROM_ORACLE.encode(self.bootstraps[message.token]))
            case Hello():
                framed.send_soon(FROM_ORACLE.encode(self.rejection or self._welcome()))
                self.answered_hellos += 1
            case Sign():
                await self._sign(framed, message)
            case Seal() if self.seal is not None:
                answer = await self.seal(message)
                if answer is not None:
                    framed.send_soon(FROM_ORACLE.encode(answer))
            case SelectKey() if self.select is not None:
                framed.send_soon(FROM_ORACLE.encode(self.select(message)))
            case Ping():
                framed.send_soon(FROM_ORACLE.encode(Pong(message.id)))
            case FetchCertificate():
                self._send_certificate(framed, message)
            case Report():
                self._take_report(framed, message)
            case _:
                pass

    def _take_report(self, framed: FramedStream, report: Report) -> None:
        if self.report_answers:
            framed.send_soon(FROM_ORACLE.encode(replace(self.report_answers.pop(0), id=report.id)))  # type: ignore[call-arg]
            return
        self.reported += report.records
        framed.send_soon(FROM_ORACLE.encode(Reported(report.id, HEAD)))

    def _welcome(self) -> Welcome:
        return Welcome(1, "node-a", "b1", "fake", datetime.now(UTC), self.keys, self.max_in_flight, HEAD, self.fallback)

    async def _sign(self, framed: FramedStream, request: Sign) -> None:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            answer = await self.answer(request)
        finally:
            self._in_flight -= 1
        if answer is not None:
            framed.send_soon(answer if isinstance(answer, bytes) else FROM_ORACLE.encode(answer))

    def _send_certificate(self, framed: FramedStream, request: FetchCertificate) -> None:
        whole = self.certificates[str(request.fingerprint)]
        size = 16_384
        chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
        for number, chunk in enumerate(chunks, 1):
            framed.send_soon(FROM_ORACLE.encode(Certificate(request.id, number, len(chunks), chunk)))
