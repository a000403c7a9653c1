"""Where HTTP comes in: a TLS port for everybody, and a Unix socket for the proxy on this host."""

import logging
import pwd
import ssl
from collections.abc import Sequence

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import ASGIApp

from agentproxy.oracle.complaints import Complaints
from agentproxy.oracle.http.connection import LAST_REQUEST_SECONDS, HttpConnection, http_config
from agentproxy.oracle.http.identity import Peer
from agentproxy.oracle.ports import peer_address
from agentproxy.oracle.shares import network_of
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.runtime.serve import accept_forever
from agentproxy.runtime.shares import Shares
from agentproxy.runtime.streams import CLOSE_SECONDS
from agentproxy.runtime.tls import handshake
from agentproxy.runtime.tlsstream import TlsStream
from agentproxy.runtime.unixsocket import peer_of

__all__ = ["HttpDoor", "uid_of"]

logger = logging.getLogger(__name__)


def uid_of(user: str) -> int:
    """The uid of a user of this host.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise ConfigError(f"http.proxy.user: there is no user {user} on this host") from error


class HttpDoor:
    """All HTTP connections of one oracle.

    Args:
        app: answers requests.
        context: of the TLS port; a client certificate is wished for.
        most: connections at once on each listener; further ones wait in the kernel's queue.
        proxy_uid: who may connect to the proxy's socket; None: there is none.
        complaints: what the log says of connections that come to nothing.
    """

    def __init__(
        self, app: ASGIApp, context: ssl.SSLContext, most: int, proxy_uid: int | None, complaints: Complaints
    ) -> None:
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]  # hypercorn's names for ASGI's types are not starlette's
        self._config = http_config()
        self._worker = WorkerContext(None)
        self._context = context
        self._most = most
        self._shares = Shares(most)
        self._proxy_uid = proxy_uid
        self._complaints = complaints
        self._connections: set[HttpConnection] = set()
        self._shaking_hands: set[trio.CancelScope] = set()
        self._listening = trio.CancelScope()

    async def serve(self, tls: Sequence[trio.SocketListener], proxy: Sequence[trio.SocketListener]) -> None:
        """Serve until `drain` was called and the last answer is given; the listeners are closed as soon as it was.

        Who waits in a queue then is turned away; where systemd has the socket, too, the next oracle gets them.
        """
        async with trio.open_nursery() as connections:
            with self._listening:
                async with trio.open_nursery() as accepting:
                    for listener in tls:
                        accepting.start_soon(accept_forever, listener, self._serve_tls, self._most, connections)
                    for listener in proxy:
                        accepting.start_soon(accept_forever, listener, self._serve_proxy, self._most, connections)
                    await trio.sleep_forever()  # a door without listeners is open, too
            for listener in (*tls, *proxy):
                listener.socket.close()
            await self._end_connections()

    async def _end_connections(self) -> None:
        await self._worker.terminated.set()  # what comes to talk from now on, from a handshake, asks for this
        for connection in self._connections:
            connection.drain()
        for scope in self._shaking_hands:
            scope.deadline = min(scope.deadline, trio.current_time() + LAST_REQUEST_SECONDS)

    def show(self, context: ssl.SSLContext) -> None:
        """Shake hands by this context from now on."""
        self._context = context

    def drain(self) -> None:
        """Accept nobody any more, and finish what is under way."""
        self._listening.cancel()

    async def _serve_tls(self, raw: trio.SocketStream) -> None:
        address = peer_address(raw)
        network = network_of(address)
        with self._shares.place(network) as has_place:
            if has_place:
                await self._serve_stranger(raw, address)
            elif self._complaints.may_tell(network):
                logger.warning("connection closed, address=%s reason=%d from there already", address, self._shares.most)

    async def _serve_stranger(self, raw: trio.SocketStream, address: str) -> None:
        stream = TlsStream(raw, self._context, server_side=True)
        try:
            if not await self._shake_hands(stream):
                return
        except RemoteProtocolError as error:
            if self._complaints.may_tell(network_of(address)):
                logger.info("no TLS, address=%s reason=%s", address, error)
            return
        certificate: bytes | None = stream.tls.getpeercert(binary_form=True)
        await self._converse(stream, Peer(certificate, address))

    async def _shake_hands(self, stream: TlsStream) -> bool:
        """Whether the handshake was done before we had to end; the stream is closed if not."""
        patience = LAST_REQUEST_SECONDS if self._worker.terminated.is_set() else float("inf")
        with trio.move_on_after(patience) as scope:
            self._shaking_hands.add(scope)
            try:
                await handshake(stream)
            finally:
                self._shaking_hands.discard(scope)
        return not scope.cancelled_caught

    async def _serve_proxy(self, raw: trio.SocketStream) -> None:
        peer = peer_of(raw)
        if peer.uid != self._proxy_uid:
            logger.warning("connection refused, uid=%d pid=%d: not the proxy's user", peer.uid, peer.pid)
            return
        await self._converse(raw, Peer(None, "proxy", is_proxy=True))

    async def _converse(self, stream: trio.abc.Stream, peer: Peer) -> None:
        connection = HttpConnection(self._app, self._config, self._worker, stream, peer)
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)
        with trio.move_on_after(CLOSE_SECONDS):  # TLS says goodbye
            await stream.aclose()
