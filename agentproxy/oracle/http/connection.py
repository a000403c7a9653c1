"""One HTTP/1.1 connection: hypercorn's protocol over a stream of ours, with a deadline on everything.

hypercorn's own server knows neither a client's certificate nor a peer that does not read, and its sockets outlive their
cancellation. So we accept, shake hands and read; hypercorn's H11Protocol turns bytes into ASGI and back.
"""

import re
from http import HTTPStatus

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from agentproxy.oracle.http.heads import HeadScan
from agentproxy.oracle.http.identity import Peer, Visit
from agentproxy.oracle.http.problems import MEDIA_TYPE, Problem
from agentproxy.oracle.http.tasks import AppTasks
from agentproxy.runtime.tlsstream import TlsStream

__all__ = ["LAST_REQUEST_SECONDS", "HttpConnection", "http_config"]

# Longer than nginx keeps an idle connection to us (60 s), so that it is nginx that closes, and no request meets a
# connection that is just being closed.
KEEP_ALIVE_SECONDS = 75.0
STRANGER_SECONDS = 5.0  # the same, for who has only asked what anybody may
FIRST_REQUEST_SECONDS = 10.0  # who connects and says nothing, or its headers byte by byte, holds a place for nothing
# Once we end, a request that was on its way already is answered still: it is here by now, or its client is no client.
LAST_REQUEST_SECONDS = 1.0
WRITE_SECONDS = 20.0  # an answer fits into the kernel's buffers; a peer that takes nothing is gone
LINGER_SECONDS = 2.0
MAX_HEADERS = 16 * 1024  # bytes; an escaped certificate has 2 to 4 KiB
_NO_METHOD = b"-"  # a token, and nothing that any address takes
_AUTHORITY = re.compile(rb"(?i:https?)://[^/?#]*")


def http_config() -> Config:
    """hypercorn, told to log nothing (a request line may hold what must not be logged) and to say nothing of itself."""
    config = Config()
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEADERS
    config.keep_alive_max_requests = 1_000_000
    return config


class _Connection(h11.Connection):
    """h11, which lets lie what follows a request that says close: RFC 9112, 9.6, has it as no request.

    h11 itself takes it for a breach, and hypercorn then answers that in the place of the request in front, which may be
    signed by then.
    """

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.MUST_CLOSE and self.trailing_data[0]:
            return h11.PAUSED
        return super().next_event()


class _Http1(H11Protocol):
    """hypercorn's protocol without its ways to HTTP/2 and WebSocket, which nobody here speaks.

    RFC 9110, 7.8: an Upgrade that is not wanted is ignored. It has no other place to say so.
    """

    async def _check_protocol(self, event: h11.Request) -> None:
        # hypercorn would answer h2c with 101, and end.
        if not _is_offer(event):
            await super()._check_protocol(event)

    async def _create_stream(self, request: h11.Request) -> None:
        # RFC 9110, 9.1: `head` is not HEAD. hypercorn would leave the body out, for which h11 then waits.
        is_lower = request.method != request.method.upper()
        target = _without_authority(request.target)
        # Behind the refusal of a WebSocket hypercorn would keep the connection, which is not idle, and so for ever.
        if is_lower or _is_offer(request) or target is not request.target:
            headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
            method, version = _NO_METHOD if is_lower else request.method, request.http_version
            request = h11.Request(method=method, headers=headers, target=target, http_version=version)
        await super()._create_stream(request)


def _is_offer(request: h11.Request) -> bool:
    return any(name == b"upgrade" for name, _ in request.headers)


def _without_authority(target: bytes) -> bytes:
    """The target as hypercorn knows it. RFC 9112, 3.2.2: a server takes `https://…`, too; whoever that names is us."""
    authority = _AUTHORITY.match(target)
    if authority is None:
        return target
    rest = target[authority.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


class HttpConnection:
    """One connection, from its first byte to its last.

    Args:
        app: what answers requests.
        config: of hypercorn, as `http_config` makes it.
        context: of all connections; once it is terminated, answers close their connection.
        stream: after the TLS handshake; it stays the caller's to close.
        peer: who is on the other side; the app finds it under `peer` in a request's state, and under `visit` where to
            say that it knows who asks.
    """

    def __init__(
        self, app: ASGIWrapper, config: Config, context: WorkerContext, stream: trio.abc.Stream, peer: Peer
    ) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._unsent = b""
        self._writing = 0  # writes that have begun
        self._idle = True
        self._over = False
        self._is_rude = False  # it may still be sending what we do not want
        self._head = HeadScan()
        self._scope = trio.CancelScope(deadline=trio.current_time() + FIRST_REQUEST_SECONDS)
        self._app, self._config, self._context = app, config, context
        self._visit = Visit(is_known=peer.is_proxy)
        self._state = ConnectionState(LifespanState({"peer": peer, "visit": self._visit}))
        self._protocol: _Http1

    async def serve(self) -> None:
        """Answer requests until either side has enough; it is called once."""
        try:
            await self._serve()
        finally:
            del self._protocol  # it knows us: together the two would keep the stream until a collection finds them

    async def _serve(self) -> None:
        is_tls = isinstance(self._stream, TlsStream)
        async with trio.open_nursery() as nursery:
            tasks = AppTasks(nursery)
            self._protocol = _Http1(
                self._app, self._config, self._context, tasks, self._state, is_tls, None, None, self._take
            )
            most = self._config.h11_max_incomplete_size
            self._protocol.connection = _Connection(h11.SERVER, max_incomplete_event_size=most)
            if self._context.terminated.is_set():
                self.drain()
            with self._scope:
                await self._read()
            if self._over and (self._writing or self._protocol.connection.our_state is h11.SEND_BODY):
                # What followed the request was none; its own answer is on its way, and shall be whole.
                nursery.cancel_scope.deadline = trio.current_time() + WRITE_SECONDS
            else:
                await self._protocol.handle(Closed())
                nursery.cancel_scope.cancel()
        if self._is_rude or (self._over and self._is_behind()):
            await self._linger()

    def _is_behind(self) -> bool:
        """Whether the peer has sent, or is sending, what was not wanted."""
        connection = self._protocol.connection
        is_more = connection.their_state is h11.MUST_CLOSE and bool(connection.trailing_data[0])
        return is_more or connection.their_state in {h11.SEND_BODY, h11.ERROR}

    async def _read(self) -> None:
        while not self._over:
            try:
                untrusted = bytes(await self._stream.receive_some())
                if self._protocol.connection.their_state is h11.IDLE and not await self._is_fit(untrusted):
                    return
                await self._protocol.handle(RawData(untrusted))
            except (trio.BrokenResourceError, H2ProtocolAssumedError):
                return  # it is gone, or it wants to speak HTTP/2, which nobody here does
            if not untrusted:
                return

    async def _take(self, event: Event) -> None:
        """What hypercorn wants done with the connection."""
        match event:
            case RawData():
                self._unsent += event.data
                # Head and body of an answer leave in one write: when h11 knows it to be whole.
                if self._protocol.connection.our_state is not h11.SEND_BODY:
                    ready, self._unsent = self._unsent, b""
                    await self._send(ready)
            case Updated():
                self._mark(idle=event.idle)
                # What was sent ahead may be unfit. Its reader is on its way already, and must not begin with it.
                await trio.lowlevel.checkpoint_if_cancelled()
            case Closed():
                self._over = True
                self._scope.cancel()

    def _mark(self, *, idle: bool) -> None:
        self._idle = idle
        patience = KEEP_ALIVE_SECONDS if self._visit.is_known else STRANGER_SECONDS
        self._scope.deadline = trio.current_time() + patience if idle else float("inf")
        self._head.starts()
        # What was sent before our answer was out has been read, and not looked at.
        if not idle:
            return
        is_clean = self._head.is_clean(self._protocol.connection.trailing_data[0])
        if not is_clean or self._head.is_longer_than(MAX_HEADERS):
            self._scope.cancel()

    async def _is_fit(self, untrusted: bytes) -> bool:
        """Whether these bytes of a head may go on to the parser; else their sender is told why not."""
        if not self._head.is_clean(untrusted):
            problem = Problem(HTTPStatus.BAD_REQUEST, "line_ends", "lines of a request's head end with CR LF")
            await self._refuse(HTTPStatus.BAD_REQUEST, problem.body, f"Content-Type: {MEDIA_TYPE}\r\n")
        elif self._head.is_longer_than(MAX_HEADERS):
            await self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return not self._is_rude

    async def _refuse(self, status: HTTPStatus, body: bytes = b"", headers: str = "") -> None:
        self._is_rude = True
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\n{headers}Content-Length: {len(body)}\r\n"
        await self._send(f"{head}Connection: close\r\n\r\n".encode("ascii") + body)

    async def _send(self, data: bytes) -> None:
        if not data:  # the end of a message with a length is no bytes at all
            return
        self._writing += 1
        try:
            async with self._sending:
                with trio.fail_after(WRITE_SECONDS):
                    await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.TooSlowError):
            self._scope.cancel()  # nobody is left to be told
        finally:
            self._writing -= 1

    async def _linger(self) -> None:
        """Let a peer that is still sending read our last answer: closing over unread bytes resets the connection."""
        with trio.move_on_after(LINGER_SECONDS):
            try:
                while await self._stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                return

    def drain(self) -> None:
        """End after the answer to what is under way, or on its way; the context must be terminated already."""
        self._protocol.keep_alive_requests = self._config.keep_alive_max_requests  # the answer says: Connection: close
        if self._idle:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + LAST_REQUEST_SECONDS)
