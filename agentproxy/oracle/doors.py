"""The oracle's doors: accepts, shakes hands under a deadline, and knows all connections that are open."""

import contextlib
import functools
import hashlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence

import trio

from agentproxy.oracle.ports import peer_address
from agentproxy.oracle.reception import Reception
from agentproxy.oracle.shares import network_of
from agentproxy.oracle.stream import RelayStream
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen
from agentproxy.runtime.shares import Shares
from agentproxy.runtime.streams import FramedStream
from agentproxy.runtime.tls import handshake
from agentproxy.runtime.tlsstream import TlsStream

__all__ = ["Doors", "Way"]

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 5.0  # how often silent connections are looked for


@frozen
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
        self._strangers = Shares(most)  # by address
        self._runners = Shares(most)
        self._streams: set[RelayStream] = set()
        self._listening = trio.CancelScope()
        self._draining = False

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
                if self._reception.complaints.may_tell("anywhere"):
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
        complaints, network = self._reception.complaints, network_of(address)
        with contextlib.ExitStack() as stranger:
            if not stranger.enter_context(self._strangers.place(network)):
                if complaints.may_tell(network):
                    reason = f"{self._strangers.most} strangers from there already"
                    logger.warning("connection closed, address=%s reason=%s", address, reason)
                return
            stream = TlsStream(raw, self._context, server_side=True)
            try:
                await handshake(stream)
            except RemoteProtocolError as error:
                if complaints.may_tell(network):
                    logger.info("no TLS, address=%s reason=%s", address, error)
                return
            certificate = stream.tls.getpeercert(binary_form=True)
            runner = await self._runner_of(certificate)
            if runner is not None:
                stranger.close()  # many runners may come from one address: from here on they are told apart
            await self._attend(FramedStream(stream), certificate, address, None, runner)

    async def _runner_of(self, certificate: bytes | None) -> str | None:
        """Whose places it takes; None: a stranger, who will not be welcome.

        A revoked certificate is a stranger's: whoever has stolen it could keep its runner out.
        """
        registry, digest = self._reception.registry, hashlib.sha256(certificate or b"").digest()
        if digest not in registry.credentials.certificates:
            await registry.refresh()  # perhaps it was issued a moment ago; `hello` would look, too
        entry = registry.credentials.certificates.get(digest)
        is_revoked = entry is not None and entry.public_key_sha256 in registry.credentials.revoked_public_keys
        return None if entry is None or is_revoked else entry.runner

    async def attend(self, framed: FramedStream, address: str, attached: str) -> None:
        """Serve the stream of a relay that comes through sshd until it ends, and close it.

        Args:
            address: host:port, as sshd saw it.
            attached: the runner that sshd has let in by its key.
        """
        await self._attend(framed, None, address, attached, attached)

    async def _attend(
        self, framed: FramedStream, certificate: bytes | None, address: str, attached: str | None, runner: str | None
    ) -> None:
        stay = contextlib.nullcontext(enter_result=True)  # a stranger has its address's place
        try:
            with stay if runner is None else self._runners.place(runner) as has_place:
                if has_place:
                    await self._serve(RelayStream(self._reception, framed, certificate, address, attached))
                elif self._reception.complaints.may_tell(f"runner {runner}"):
                    reason = f"it has {self._runners.most} already"
                    logger.warning("connection closed, runner=%s address=%s reason=%s", runner, address, reason)
        finally:
            await framed.aclose()

    async def _serve(self, relay: RelayStream) -> None:
        self._streams.add(relay)
        if self._draining:
            relay.drain()  # it was let in before, and has shaken hands since
        try:
            await relay.serve()
        finally:
            self._streams.discard(relay)

    def show(self, context: ssl.SSLContext) -> None:
        """Shake hands by this context from now on."""
        self._context = context

    def follow(self) -> None:
        """Credentials, policy or keys have changed: every open connection learns of it."""
        for relay in list(self._streams):
            relay.follow()

    async def keep_alive(self) -> None:
        """Look after silent connections, credentials that expire and what was not logged, until cancelled."""
        while True:
            await trio.sleep(KEEP_ALIVE_SECONDS)
            self._reception.complaints.sweep()
            self._look_after_all()

    def _look_after_all(self) -> None:
        # A function of its own: the variable of a loop up there would keep the last relay's buffers while we sleep.
        for relay in list(self._streams):
            relay.follow()
            relay.keep_alive()
            relay.renew_if_due()

    def drain(self) -> None:
        """Accept nobody any more, and let everybody finish."""
        self._draining = True
        self._listening.cancel()
        for relay in list(self._streams):
            relay.drain()
