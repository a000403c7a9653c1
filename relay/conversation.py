"""One connection of gpg: moves bytes between the socket and the session, and gets the signatures that it needs.

A caller that is slow, silent or half gone holds its own connection and nothing else.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from math import inf

import trio

from agentproxy.protocol.fields import Claims
from agentproxy.runtime.directstream import DirectStream
from relay.caller import Observer
from relay.departures import Departures
from relay.door import Visitor
from relay.session import Close, Event, Reply, Session, SignNeeded
from relay.signing import NotSignedError, SignatureSource

__all__ = ["Conversation", "Patience"]

# gpg opens its connection before it hashes, and a disk image may take minutes; sq keeps one idle while it works.
# After one to two times this nobody is there any more, or somebody does not read; and connections are bounded.
IDLE_SECONDS = 1800.0
READ_BYTES = 4096  # four of Assuan's longest lines
# gpg writes a line and its newline one after the other, and a dozen lines that each wait for our answer. To wait for
# them here takes a few microseconds, to go through the event loop takes forty. Nobody who is served is kept waiting by
# that: it is done while this gpg is the only one, or for what is there already; who comes meanwhile is accepted some
# milliseconds later. Who was not that quick twice, more often than not, is left to the event loop for a while.
SOON_MS = 1
HASTE_SECONDS = 0.0002  # whose newline takes longer is not waited for again
# After such a wait nobody's newline is waited for, for so many times as long: a crowd that sends half lines, or comes
# again with each, shall take a hundredth of the event loop's time and not all of it.
RECOVERY = 100
MOST_AT_ONCE = 8  # commands in a row, then others have their turn; several that come together are a turn of their own
# Each is a line in the log, with which a crowd that sends nothing but nonsense would keep all others waiting.
MOST_REFUSALS = 100
_LUCK, _MOST_LUCK = 2, 4  # misses that are forgiven: at first, and after many hits
_PAUSE = 16  # commands that are left to the event loop after those: more than one gpg has

# gpg asks these about every key it knows, and for a smartcard when nobody named a key. An answer of "not ours" is no
# refusal that a person would look for.
_LOOKUPS = ("HAVEKEY", "KEYINFO", "READKEY", "GETINFO", "command 'SCD'")


class Patience:
    """How long all conversations of a relay together keep the event loop waiting for newlines."""

    __slots__ = ("_restored",)

    def __init__(self) -> None:
        self._restored = 0.0  # when it is back, by time.perf_counter

    def is_left(self, now: float) -> bool:
        """Whether anybody may be waited for."""
        return now >= self._restored

    def spend(self, began: float, now: float) -> None:
        """A wait was in vain, or too long."""
        self._restored = now + RECOVERY * (now - began)


class Conversation:
    """One gpg, from its first command to its end.

    Args:
        stream: its connection, greeted; it stays the caller's to close.
        service: gets signatures.
        departures: tells us when gpg leaves while it waits for one.
        observer: tells us more about who it is.
        visitor: who it is.
        is_alone: whether nobody else is served at this moment.
        patience: the relay's, which all conversations share.
    """

    __slots__ = (
        "_at_once", "_departures", "_idle", "_is_alone", "_is_hasty", "_luck", "_observer", "_patience", "_refused",
        "_service", "_stream", "_visitor",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913, PLR0917  all that a relay has for one connection
        self,
        stream: DirectStream,
        service: SignatureSource,
        departures: Departures,
        observer: Observer,
        visitor: Visitor,
        is_alone: Callable[[], bool],
        patience: Patience,
    ) -> None:
        self._stream = stream
        self._service = service
        self._departures = departures
        self._observer = observer
        self._visitor = visitor
        self._is_alone = is_alone
        self._patience = patience
        # One scope for the whole conversation: one for each read and write would take longer than most replies.
        self._idle = trio.CancelScope()
        self._is_hasty = True
        self._luck = _LUCK
        self._refused = 0
        self._at_once = 0  # commands that did not go through the event loop, in a row

    async def run(self, session: Session) -> None:
        """Serve until gpg closes, breaks the protocol, or keeps us waiting beyond the limits above."""
        with self._idle:
            self._put_off()
            try:
                while True:
                    untrusted = await self._received()
                    if not untrusted or not await self._answer(session, untrusted):
                        return
            except trio.BrokenResourceError:
                return  # gpg was killed: nothing to tell and nobody to tell it

    async def _received(self) -> bytes:
        untrusted = self._soon()
        if untrusted is None:
            self._at_once = 0
            self._put_off()  # what comes at once is no silence, and not worth the time
            untrusted = await self._stream.receive_some(READ_BYTES)
        if self._is_hasty and untrusted and not untrusted.endswith(b"\n"):
            untrusted += self._newline()
        if untrusted.count(b"\n") > 1:  # not gpg, which waits for each answer: there may be a thousand in one read
            self._at_once = MOST_AT_ONCE
        return untrusted

    def _newline(self) -> bytes:
        """What gpg writes right behind a line; empty when it does not come at once."""
        began = time.perf_counter()
        if not self._patience.is_left(began):
            return b""
        rest = self._stream.receive_within(SOON_MS, READ_BYTES) or b""
        now = time.perf_counter()
        # Who kept everybody waiting, or drips bytes so as to do it, will not do so again.
        self._is_hasty = rest.endswith(b"\n") and now - began < HASTE_SECONDS
        if not self._is_hasty:
            self._patience.spend(began, now)
        return rest

    def _soon(self) -> bytes | None:
        """The next command, if it is there at once; None: it has to be waited for."""
        if self._luck <= 0:
            self._luck += 1
            return None
        if self._at_once == MOST_AT_ONCE:
            return None
        untrusted = self._stream.receive_within(SOON_MS if self._is_alone() else 0, READ_BYTES)
        self._luck = min(self._luck + 1, _MOST_LUCK) if untrusted is not None else self._luck - 1 or -_PAUSE
        self._at_once += 1
        return untrusted

    def _put_off(self) -> None:
        now = trio.current_time()
        if self._idle.deadline - now < IDLE_SECONDS or self._idle.deadline == inf:
            self._idle.deadline = now + 2 * IDLE_SECONDS

    async def _flush(self) -> None:
        """Wait until gpg reads; before that, we do not read either."""
        if self._stream.unsent:
            self._put_off()
            await self._stream.flush()

    async def _answer(self, session: Session, untrusted: bytes) -> bool:
        """Answer what arrived; False when the conversation is over."""
        events: Sequence[Event] = session.receive(untrusted)
        while True:
            replies = b"".join([event.data for event in events])
            is_sent = is_gone = False
            try:
                is_sent = not replies or self._stream.send_now(replies)
            except trio.BrokenResourceError:
                is_gone = True
            # Who leaves at once, or does not read, must not keep it out of the log.
            refused = [event for event in events if event.reason and not event.reason.startswith(_LOOKUPS)]
            is_over = bool(refused) and await self._note(session, refused)
            if is_gone or is_over:
                return False
            if not is_sent:
                await self._flush()
            if session.has_found_key:
                session.has_found_key = False
                self._service.expect()
                # gpg goes on to read its keyring for a millisecond: by PKSIGN nobody waits for what is seen.
                self._observer.look(self._visitor.peer)
            last = events[-1] if events else None
            if not isinstance(last, SignNeeded):
                return not isinstance(last, Close)
            await self._sign(session, last)
            await self._flush()
            events = session.receive(b"")  # what gpg sent along with PKSIGN; what it sent later, the kernel has

    async def _note(self, session: Session, refused: Sequence[Event]) -> bool:
        """Log what was refused, whatever happens meanwhile; True when it was too much."""
        claims: Claims | None = None
        try:
            # Somebody will look for the package whose signature failed; what is no signature is of no package.
            if any(isinstance(event, Reply) and event.about for event in refused):
                claims = await self._observer.claims(self._visitor.peer, session.claims_hint)
        finally:  # a relay that is stopped here has answered already, and gpg shows no reason
            is_over = self._log(refused, claims)
        return is_over

    def _log(self, refused: Sequence[Event], claims: Claims | None) -> bool:
        for event in refused:
            self._refused += 1
            if self._refused > MOST_REFUSALS:
                reason = f"the connection is ended: more than {MOST_REFUSALS} commands of it were refused"
                self._service.refused_here(self._visitor, reason)
                return True
            about = event.about if isinstance(event, Reply) else None
            self._service.refused_here(self._visitor, event.reason, about, claims if about else None)
        return False

    async def _sign(self, session: Session, need: SignNeeded) -> None:
        """Answer PKSIGN; when gpg leaves, the whole conversation is cancelled here."""
        descriptor = self._stream.socket.fileno()
        self._departures.watch(descriptor, self._idle)
        try:
            claims = await self._observer.claims(self._visitor.peer, session.claims_hint)
            await self._service.sign(
                need, self._visitor, claims, lambda signature: self._deliver(session.signed(signature))
            )
        except NotSignedError as error:
            self._deliver(session.failed(error.gpg_error))  # its reason is in the log already
        finally:
            self._departures.forget(descriptor)

    def _deliver(self, reply: Reply) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # reading tells
            self._stream.send_now(reply.data)
