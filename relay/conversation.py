"""One connection of gpg: moves bytes between the socket and the session, and gets the signatures that it needs.

A caller that is slow, silent or half gone holds its own connection and nothing else.
"""

from collections.abc import Awaitable, Callable, Sequence
from math import inf

import trio

from agentproxy.runtime.directstream import DirectStream
from relay.caller import Observer
from relay.departures import Departures
from relay.door import Visitor
from relay.session import Close, Event, Reply, Session, SignNeeded
from relay.signing import NotSignedError, SignatureSource

__all__ = ["Conversation"]

# gpg opens its connection before it hashes, and a disk image may take minutes; sq keeps one idle while it works.
# After one to two times this nobody is there any more, or somebody does not read; and connections are bounded.
IDLE_SECONDS = 1800.0
READ_BYTES = 4096  # four of Assuan's longest lines

# gpg asks these about every key it knows, and for a smartcard when nobody named a key. An answer of "not ours" is no
# refusal that a person would look for.
_LOOKUPS = ("HAVEKEY", "KEYINFO", "READKEY", "GETINFO", "command 'SCD'")


class Conversation:
    """One gpg, from greeting to end.

    Args:
        stream: its connection; it stays the caller's to close.
        service: gets signatures.
        departures: tells us when gpg leaves while it waits for one.
        observer: tells us more about who it is.
        visitor: who it is.
    """

    __slots__ = ("_departures", "_idle", "_observer", "_service", "_stream", "_visitor")

    def __init__(
        self,
        stream: trio.SocketStream,
        service: SignatureSource,
        departures: Departures,
        observer: Observer,
        visitor: Visitor,
    ) -> None:
        self._stream = DirectStream(stream)
        self._service = service
        self._departures = departures
        self._observer = observer
        self._visitor = visitor
        # One scope for the whole conversation: one for each read and write would take longer than most replies.
        self._idle = trio.CancelScope()

    async def run(self, new_session: Callable[[], Awaitable[Session]]) -> None:
        """Serve until gpg closes, breaks the protocol, or keeps us waiting beyond the limits above.

        The greeting goes out at once, since gpg counts a late one as no agent; `new_session` may take its time after
        it.
        """
        with self._idle:
            try:
                await self._send(Session.greeting)
                session = await new_session()
                while True:
                    self._put_off()
                    untrusted = await self._stream.receive_some(READ_BYTES)
                    if not untrusted or not await self._answer(session, untrusted):
                        return
            except trio.BrokenResourceError:
                return  # gpg was killed: nothing to tell and nobody to tell it

    def _put_off(self) -> None:
        now = trio.current_time()
        if self._idle.deadline - now < IDLE_SECONDS or self._idle.deadline == inf:
            self._idle.deadline = now + 2 * IDLE_SECONDS

    async def _send(self, data: bytes) -> None:
        if not self._stream.send_now(data):
            await self._stream.flush()  # gpg does not read: neither do we

    async def _answer(self, session: Session, untrusted: bytes) -> bool:
        """Answer what arrived; False when the conversation is over."""
        events: Sequence[Event] = session.receive(untrusted)
        while True:
            if replies := b"".join([event.data for event in events if isinstance(event, Reply)]):
                await self._send(replies)
            self._note_refusals(events)
            if session.has_key:
                self._observer.look(self._visitor.peer)  # a signature will soon be wanted
            last = events[-1] if events else None
            if not isinstance(last, SignNeeded):
                return not isinstance(last, Close)
            reply = await self._signed(session, last)
            try:
                await self._send(reply.data)
            finally:
                self._service.log.write_late()  # only now: gpg need not wait for it
            events = session.receive(b"")  # what gpg sent along with PKSIGN; what it sent later, the kernel has

    def _note_refusals(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Reply | Close) and event.reason and not event.reason.startswith(_LOOKUPS):
                self._service.refused_here(self._visitor, event.reason)

    async def _signed(self, session: Session, need: SignNeeded) -> Reply:
        """The reply to PKSIGN; when gpg leaves, the whole conversation is cancelled here."""
        descriptor = self._stream.socket.fileno()
        self._departures.watch(descriptor, self._idle)
        try:
            claims = await self._observer.claims(self._visitor.peer, session.claims_hint)
            signature = await self._service.sign(need, self._visitor, claims)
        except NotSignedError as error:
            return session.failed(error.gpg_error)  # its reason is in the log already
        finally:
            self._departures.forget(descriptor)
        return session.signed(signature)
