"""The oracle's doors: accepts, shakes hands under a deadline, and knows all connections that are open."""

import functools
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from agentproxy.oracle.ports import peer_address
from agentproxy.oracle.reception import Reception
from agentproxy.oracle.stream import RelayStream
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.runtime.streams import FramedStream
from agentproxy.runtime.tls import handshake
from agentproxy.runtime.tlsstream import TlsStream

__all__ = ["Doors", "Way"]

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 5.0  # how often silent connections are looked for


@dataclass(frozen=True, slots=True)
class Way:
    """Where relays come in, and how a connection there becomes a stream of frames."""

    listeners: Sequence[trio.SocketListener]
    greet: Callable[[trio.SocketStream], Awaitable[None]]


class Doors:
    """All relay connections of one oracle.

    Args:
        most: connections at once; further ones are closed, and their relays come again later.
    """

    def __init__(self, reception: Reception, context: ssl.SSLContext, most: int) -> None:
        self._reception = reception
        self._context = context
        self._most = most
        self._connections = 0
        self._streams: set[RelayStream] = set()
        self._listening = trio.CancelScope()

    async def serve(self, ways: Sequence[Way]) -> None:
        """Serve until `drain` was called and the last relay has left."""
        async with trio.open_nursery() as nursery:
            with self._listening:
                async with trio.open_nursery() as accepting:
                    for way in ways:
                        handle = functools.partial(self._handle, way.greet)
                        serve = functools.partial(trio.serve_listeners, handler_nursery=nursery)
                        accepting.start_soon(serve, handle, list(way.listeners))

    async def _handle(self, greet: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream) -> None:
        self._connections += 1
        try:
            if self._connections > self._most:
                logger.warning("connection closed, reason=more than %d at once", self._most)
                return
            await greet(stream)
        except Exception:
            # One relay must not take the others along, whatever bug its bytes have found.
            logger.exception("connection ended by a bug")
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def shake_hands(self, raw: trio.SocketStream) -> None:
        """Serve a relay that comes over TCP, once it has shown itself in TLS."""
        address = peer_address(raw)
        stream = TlsStream(raw, self._context, server_side=True)
        try:
            await handshake(stream)
        except RemoteProtocolError as error:
            logger.info("no TLS, address=%s reason=%s", address, error)
            return
        await self.attend(FramedStream(stream), stream.tls.getpeercert(binary_form=True), address)

    async def attend(
        self, framed: FramedStream, certificate: bytes | None, address: str, attached: str | None = None
    ) -> None:
        """Serve one relay's stream until it ends, and close it.

        Args:
            certificate: the client certificate, DER.
            address: host:port.
            attached: the runner that sshd has let in by its key, when the stream comes that way.
        """
        relay = RelayStream(self._reception, framed, certificate, address, attached)
        self._streams.add(relay)
        try:
            await relay.serve()
        finally:
            self._streams.discard(relay)
            await framed.aclose()

    def follow(self) -> None:
        """Credentials, policy or keys have changed: every open connection learns of it."""
        for relay in list(self._streams):
            relay.follow()

    async def keep_alive(self) -> None:
        """Look after silent connections, and after credentials that expire, until cancelled."""
        while True:
            await trio.sleep(KEEP_ALIVE_SECONDS)
            for relay in list(self._streams):
                relay.follow()
                relay.keep_alive()
                relay.renew_if_due()

    def drain(self) -> None:
        """Accept nobody any more, and let everybody finish."""
        self._listening.cancel()
        for relay in list(self._streams):
            relay.drain()
