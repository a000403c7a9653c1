"""One connection of gpg: moves bytes between the socket and the session, and gets the signatures that it needs.

A caller that is slow, silent or half gone holds its own connection and nothing else.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from math import inf

import trio

from relay.door import Visitor
from relay.session import Close, Event, Reply, Session, SignNeeded
from relay.signing import NotSignedError, SigningService

__all__ = ["converse"]

logger = logging.getLogger(__name__)

# gpg opens its connection before it hashes, and a disk image may take minutes; sq keeps one idle while it works.
# After one to two times this nobody is there any more, or somebody does not read; and connections are bounded.
IDLE_SECONDS = 1800.0
READ_BYTES = 4096  # four of Assuan's longest lines
MAX_AHEAD = 16_384  # bytes that we take while gpg waits for a signature; no client sends any

# gpg asks these about every key it knows, and for a smartcard when nobody named a key. An answer of "not ours" is no
# refusal that a person would look for.
_LOOKUPS = ("HAVEKEY", "KEYINFO", "READKEY", "GETINFO", "command 'SCD'")


async def converse(
    stream: trio.SocketStream, new_session: Callable[[], Awaitable[Session]], service: SigningService, visitor: Visitor
) -> None:
    """Serve one gpg until it closes, breaks the protocol, or keeps us waiting beyond the limits above.

    The greeting goes out at once, since gpg counts a late one as no agent; `new_session` may take its time after it.
    """
    # One scope for the whole conversation: one for each read and write would take longer than the rest of most replies.
    with trio.CancelScope() as idle:
        try:
            await stream.send_all(Session.greeting)
            session = await new_session()
            while True:
                _put_off(idle)
                untrusted = await stream.receive_some(READ_BYTES)
                if not untrusted or not await _answer(stream, session, service, visitor, untrusted):
                    return
        except trio.BrokenResourceError:
            return  # gpg was killed: nothing to tell and nobody to tell it


def _put_off(idle: trio.CancelScope) -> None:
    now = trio.current_time()
    if idle.deadline - now < IDLE_SECONDS or idle.deadline == inf:
        idle.deadline = now + 2 * IDLE_SECONDS


async def _answer(
    stream: trio.SocketStream, session: Session, service: SigningService, visitor: Visitor, untrusted: bytes
) -> bool:
    """Answer what arrived; False when the conversation is over."""
    events: Sequence[Event] = session.receive(untrusted)
    while True:
        _note_refusals(visitor, service, events)
        if replies := b"".join(event.data for event in events if isinstance(event, Reply)):
            await stream.send_all(replies)
        last = events[-1] if events else None
        if not isinstance(last, SignNeeded):
            return not isinstance(last, Close)
        turn = _Turn(stream, session, service, visitor)
        reply = await turn.take(last)
        if reply is None:
            return False
        events = [reply, *session.receive(turn.ahead)]


def _note_refusals(visitor: Visitor, service: SigningService, events: Sequence[Event]) -> None:
    for event in events:
        if isinstance(event, Reply | Close) and event.reason and not event.reason.startswith(_LOOKUPS):
            service.refused_here(visitor, event.reason)


class _Turn:
    """One PKSIGN: waits for the signature and, beside it, for gpg's end, which cancels the wait."""

    def __init__(self, stream: trio.SocketStream, session: Session, service: SigningService, visitor: Visitor) -> None:
        self._stream = stream
        self._session = session
        self._service = service
        self._visitor = visitor
        self._reply: Reply | None = None
        self.ahead = b""  # what gpg sent meanwhile

    async def take(self, need: SignNeeded) -> Reply | None:
        """The reply to PKSIGN; None when gpg is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            self._reply = await self._signed(need)
            nursery.cancel_scope.cancel()
        return self._reply

    async def _signed(self, need: SignNeeded) -> Reply:
        try:
            signature = await self._service.sign(need, self._visitor)
        except NotSignedError as error:
            return self._session.failed(error.gpg_error)  # its reason is in the log already
        return self._session.signed(signature)

    async def _watch(self, scope: trio.CancelScope) -> None:
        while len(self.ahead) <= MAX_AHEAD:
            try:
                untrusted = await self._stream.receive_some(READ_BYTES)
            except trio.BrokenResourceError:
                untrusted = b""
            if not untrusted:
                scope.cancel()
                return
            self.ahead += untrusted
