"""One open stream to one oracle: `hello`, then messages both ways until it ends.

It decides when a silent peer counts as dead. What the messages mean, and what happens after the end, is the client's
business.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, Protocol

import trio

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, PROTOCOL_VERSION, FromOracle, FromRelay
from agentproxy.protocol.oracle_messages import Rejected, Welcome
from agentproxy.protocol.relay_messages import Hello, Ping, Pong
from agentproxy.runtime.streams import EndOfStream, FramedStream
from agentproxy.runtime.tlscontext import explain
from relay.errors import LinkLostError, RejectedError

__all__ = ["Link", "LinkOwner", "oracle_words"]

# An oracle answers `hello` from memory; more time means that something else listens there.
HELLO_SECONDS = 10.0
# Firewalls forget idle TCP connections after a few minutes, some after one: a ping well before that keeps ours.
IDLE_PING_SECONDS = 20.0
# With a gpg waiting, a dead peer must be found early enough to try another connection within a deadline of 30 s.
BUSY_PING_SECONDS = 5.0
# Longer than a loaded oracle's event loop or a lost packet's retransmissions take.
PONG_SECONDS = 5.0
# How exactly the limits above are kept; each tick costs a wake-up.
TICK_SECONDS = 2.5


def oracle_words(error: Exception) -> str:
    """What went wrong with a stream to an oracle, such as "the oracle does not know this certificate: …"."""
    return explain(error).replace("the other side", "the oracle")


class LinkOwner(Protocol):
    """Who uses a link: the client."""

    def is_busy(self) -> bool:
        """Whether somebody waits for an answer, which shortens the patience with a silent peer."""
        ...

    async def welcomed(self, link: "Link", welcome: Welcome) -> None:
        """The oracle took us: requests may be sent."""
        ...

    async def received(self, link: "Link", message: FromOracle) -> None:
        """A message that is not about the link itself."""
        ...

    def ended(self, link: "Link") -> None:
        """Nothing more will come; whether `run` returns at once or says goodbye first."""
        ...


class Link:
    """A stream in use.

    Args:
        stream: connected, TLS handshake done; `run` closes it.
        hello: what to say first.
        owner: gets what arrives.
    """

    def __init__(self, stream: trio.abc.Stream, hello: Hello, owner: LinkOwner) -> None:
        self._framed = FramedStream(stream)
        self._hello = hello
        self._owner = owner
        self._heard: float | None = None  # since `welcome`: when the peer last made a sound
        self._scope = trio.CancelScope()
        self._end: LinkLostError | RejectedError | None = None

    def send(self, message: FromRelay) -> None:
        """Send `message` soon; when the stream is broken `run` notices, and nothing is raised here."""
        try:
            self._framed.send_soon(FROM_RELAY.encode(message))
        except RemoteProtocolError as error:
            self.end(str(error))

    def end(self, reason: str) -> None:
        """Let `run` end with LinkLostError(reason)."""
        self._stop(LinkLostError(reason))

    async def run(self) -> NoReturn:
        """Say hello and serve the owner until the stream ends.

        Raises:
            LinkLostError: broken, closed, silent, or the peer broke the protocol: the message says which.
            RejectedError: the oracle answered `rejected`, or said so later.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self.send(self._hello)
                    nursery.start_soon(self._guard, self._framed.run_sender)
                    nursery.start_soon(self._guard, self._watch)
                    nursery.start_soon(self._guard, self._converse)
        finally:
            self._owner.ended(self)  # before the goodbye: requests shall not wait for it
            with trio.CancelScope(shield=True):  # bounded by FramedStream's CLOSE_SECONDS
                await self._framed.aclose()
        # Cancelled from outside, the nursery raises Cancelled and this line is not reached.
        raise self._end or LinkLostError("the connection ended")

    def _stop(self, error: LinkLostError | RejectedError) -> None:
        self._end = self._end or error
        self._scope.cancel()

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Turn the expected ends of one task into the end of the link, so that no exception group forms."""
        try:
            await task()
        except EndOfStream:
            self._stop(LinkLostError("the oracle closed the connection"))
        except RemoteProtocolError as error:
            self._stop(LinkLostError(oracle_words(error)))
        except (LinkLostError, RejectedError) as error:
            self._stop(error)

    async def _converse(self) -> None:
        with trio.move_on_after(HELLO_SECONDS) as patience:
            payloads = await self._framed.receive()
        if patience.cancelled_caught:
            raise LinkLostError(f"no answer to hello within {HELLO_SECONDS:.0f} s")
        answer = FROM_ORACLE.decode(payloads[0])
        if isinstance(answer, Rejected):
            raise RejectedError(answer.code)
        if not isinstance(answer, Welcome):
            raise RemoteProtocolError(f"expected welcome, got {answer.tag}")
        if answer.protocol != PROTOCOL_VERSION:
            raise RejectedError(RejectionCode.VERSION)
        await self._owner.welcomed(self, answer)
        self._heard = trio.current_time()
        await self._handle_all(payloads[1:])
        while True:
            payloads = await self._framed.receive()
            self._heard = trio.current_time()
            await self._handle_all(payloads)

    async def _handle_all(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            message = FROM_ORACLE.decode(payload)
            match message:
                case Ping():
                    self.send(Pong(message.id))
                case Pong():
                    pass  # any sound from the peer counts, `_heard` has it
                case Rejected():
                    raise RejectedError(message.code)  # the last word to whoever was revoked meanwhile
                case Welcome():
                    raise RemoteProtocolError(f"{message.tag} comes once, as the answer to hello")
                case _:
                    await self._owner.received(self, message)

    async def _watch(self) -> None:
        """Ping a silent peer, and end the link when it stays silent."""
        asked_at: float | None = None
        while True:
            await trio.sleep(TICK_SECONDS)
            if self._heard is None:
                continue  # HELLO_SECONDS is the limit until then
            now = trio.current_time()
            if asked_at is not None and self._heard < asked_at:
                if now - asked_at >= PONG_SECONDS:
                    raise LinkLostError(f"the oracle was silent for {now - self._heard:.0f} s")
                continue
            asked_at = None
            limit = BUSY_PING_SECONDS if self._owner.is_busy() else IDLE_PING_SECONDS
            if now - self._heard >= limit:
                asked_at = now
                self.send(Ping(secrets.token_hex(16)))
