"""The signer's Unix socket: frames in, frames out, and nobody but the oracle's uid.

A message outside the signer's table ends its connection; the signer lives on.
"""

import logging
from collections.abc import Collection

import trio

from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.signer_messages import TO_SIGNER
from agentproxy.runtime.serve import accept_forever
from agentproxy.runtime.streams import EndOfStream, FramedStream
from agentproxy.runtime.unixsocket import peer_of
from agentproxy.signer.requests import Requests

__all__ = ["Server"]

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64  # the oracle holds one; the command line and a restarted oracle come on top


class Server:
    """Serves connections until `drain`.

    Args:
        uids: who may connect.
    """

    def __init__(self, requests: Requests, uids: Collection[int]) -> None:
        self._requests = requests
        self._uids = frozenset(uids)
        self._draining = trio.Event()
        self._connections = 0
        self._deserted = trio.Event()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accept connections until `drain`, then finish them and return."""
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, self._connection, MAX_CONNECTIONS)
            await self._draining.wait()
            while self._connections:
                self._deserted = trio.Event()
                await self._deserted.wait()
            nursery.cancel_scope.cancel()

    def drain(self) -> None:
        """Take no more requests, finish those in flight, and let `serve` return."""
        self._draining.set()

    async def _connection(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        try:
            peer = peer_of(stream)
            if peer.uid not in self._uids:
                logger.warning("connection refused, uid=%d pid=%d: not in peer_uids", peer.uid, peer.pid)
                return
            await _Connection(FramedStream(stream), self._requests).run(self._draining)
        finally:
            self._connections -= 1
            self._deserted.set()


class _Connection:
    def __init__(self, stream: FramedStream, requests: Requests) -> None:
        self._stream = stream
        self._requests = requests
        self._owed = 0  # answers
        self._settled = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self, draining: trio.Event) -> None:
        """Serve until the peer goes, breaks the rules, or `draining`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                await self._read_until(draining)
                self._stream.end_soon()
        self._scope.cancel()  # answers that come now find nobody

    async def _send(self) -> None:
        try:
            await self._stream.run_sender()
        except RemoteProtocolError as error:
            self._end(error)

    def _end(self, error: RemoteProtocolError) -> None:
        logger.warning("connection ended: %s", error)
        self._scope.cancel()

    async def _read_until(self, draining: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when, draining, nursery.cancel_scope)
            await self._read()
        while self._owed:  # the daemon cancels us when it takes too long
            self._settled = trio.Event()
            await self._settled.wait()

    async def _cancel_when(self, draining: trio.Event, scope: trio.CancelScope) -> None:
        await draining.wait()
        scope.cancel()

    async def _read(self) -> None:
        try:
            while True:
                requests = [TO_SIGNER.decode(payload) for payload in await self._stream.receive()]
                self._owed += len(requests)
                self._requests.handle(requests, self._answer)
        except EndOfStream:
            self._scope.cancel()
        except RemoteProtocolError as error:
            self._end(error)

    def _answer(self, payload: bytes) -> None:
        self._owed -= 1
        self._settled.set()
        if self._scope.cancel_called:
            return  # the record says what was done
        try:
            self._stream.send_soon(payload)
        except RemoteProtocolError as error:
            self._end(error)
        except LocalProtocolError:
            # A bug, and this connection's alone: we stand among the answers of others.
            logger.exception("an answer cannot be sent")
            self._scope.cancel()
