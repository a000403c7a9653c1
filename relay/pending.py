"""The requests that wait for an answer, whatever becomes of the connections that carry them.

A request stays in this table until its answer, its deadline or its caller's end. When its connection ends or says
nothing, it goes over another one with the same id, so an oracle joins it to what it already does for it.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import NoReturn

import trio

from agentproxy.protocol.oracle_messages import Failed
from relay.carrier import Answer, Asked, Carrier, Reply
from relay.errors import DeadlineError, RejectedError, UnreachableError

__all__ = ["Answer", "PendingRequests", "Question", "unheard"]

logger = logging.getLogger(__name__)

# How often a request that waits looks whether the others have left it room, and whether its oracle still answers.
LOOK_SECONDS = 2.5
# An oracle that has requests and answers none of them for so long hangs, whatever its pings say: it is longer than a
# busy disk takes, and leaves the next oracle half of a short deadline. One that answers others is busy, not hung.
STALL_SECONDS = 5.0


def unheard(_: Answer) -> None:
    """Nobody needs to know before the task that waits."""


class Question:
    """One request, which may be asked again under its id after a failure.

    Args:
        expires: on trio's clock.
        make: called at each sending: the remaining time differs.
        sent_to: gets the name of each node that was sent it, in order.
        hear: called with each answer in the moment that it arrives: the task that waits runs in the event loop's next
            round only. What it raises, `ask` raises.

    Attributes:
        avoid: addresses of oracles that are asked only when there is no other.
        answered_by: who gave the last answer.
        error: what `hear` raised.
    """

    __slots__ = (
        "answer", "answered_by", "avoid", "done", "error", "expires", "hear", "id", "is_queued", "make", "may_pass",
        "rejection", "sent_to", "was_lost",
    )  # fmt: skip

    def __init__(
        self,
        request_id: str,
        expires: float,
        make: Callable[[], Asked],
        sent_to: list[str] | None = None,
        hear: Callable[[Answer], None] = unheard,
    ) -> None:
        self.id = request_id
        self.expires = expires
        self.make = make
        self.sent_to = [] if sent_to is None else sent_to
        self.hear = hear
        self.error: Exception | None = None
        self.avoid: set[str] = set()
        self.done = trio.Event()
        self.answer: Answer | None = None
        self.answered_by: Carrier | None = None
        self.rejection: RejectedError | None = None
        self.is_queued = False
        self.may_pass = False  # one of those that failed it said that a later try may help
        self.was_lost = False  # a connection died under it

    def begin(self) -> None:
        """Forget the last answer, if there is one."""
        if self.answer is not None:
            self.answer = self.answered_by = None
            self.done = trio.Event()


class PendingRequests:
    """Sends what may be sent, and wakes whom an answer is for.

    Args:
        stalled: called with a carrier that has requests and has answered none for STALL_SECONDS.

    Attributes:
        moved: how many requests were sent to another node after the first.
        problem: why there is no connection, for those whose time is over.
    """

    def __init__(self, stalled: Callable[[Carrier], None] = lambda _: None) -> None:
        self.moved = 0
        self.problem = "no connection yet"
        self._stalled = stalled
        self._open: dict[str, Question] = {}
        self._unsent: deque[Question] = deque()
        self._carriers: list[Carrier] = []  # all that live
        self._order: Sequence[Carrier] = ()  # those in use, best first
        self._stuck = trio.Event()
        self._settled = trio.Event()
        self._next_look = inf  # when `keep_time` looks at the requests again, on trio's clock
        self._sooner = trio.Event()

    def __len__(self) -> int:
        return len(self._open)

    async def stuck(self) -> None:
        """Return as soon as somebody waits, and there is no oracle to ask."""
        while not self._open or self._order:
            self._stuck = trio.Event()
            await self._stuck.wait()

    async def idle(self) -> None:
        """Return as soon as nobody waits for an answer."""
        while self._open:
            self._settled = trio.Event()
            await self._settled.wait()

    async def ask(self, question: Question) -> Answer:
        """The answer, if it comes until the question expires.

        Raises:
            RejectedError: no oracle takes this relay.
            DeadlineError: an oracle had the request all the time and did not answer.
            UnreachableError: there was none, or connections died under the request.
            Exception: whatever the question's `hear` raised.
        """
        question.begin()
        self._open[question.id] = question
        self._queue((question,))
        self._stuck.set()
        self._pump()
        if question.expires < self._next_look:
            self._sooner.set()
        try:
            await question.done.wait()
        finally:
            del self._open[question.id]
            self._settled.set()
        if question.error is not None:
            raise question.error
        if question.rejection is not None:
            raise question.rejection
        if question.answer is None:
            raise self._too_late(question)
        return question.answer

    async def keep_time(self) -> NoReturn:
        """End each request when its time is over, and look after those that wait; somebody must run this.

        One task does it for all: a deadline of its own costs a request as much as its message.
        """
        while True:
            now = trio.current_time()
            for question in self._open.values():
                if question.expires <= now:
                    question.done.set()
            # Not when a request has just woken us: the silence may be about an earlier one, whose caller has left.
            if self._open and now >= self._next_look:
                for carrier in [one for one in self._carriers if one.is_stalled(STALL_SECONDS)]:
                    self._stalled(carrier)
            self._pump()  # places that forgotten requests held may be free by now
            waiting = [question.expires for question in self._open.values() if not question.done.is_set()]
            self._next_look = min([now + LOOK_SECONDS, *waiting]) if waiting else inf
            self._sooner = trio.Event()
            with trio.move_on_at(self._next_look):
                await self._sooner.wait()

    def _too_late(self, question: Question) -> DeadlineError | UnreachableError:
        if not any(question.id in carrier.in_flight for carrier in self._carriers):
            return UnreachableError(f"no oracle in reach: {self.problem or 'too many requests before this one'}")
        if question.was_lost:
            return UnreachableError("the connection broke under the request, and its repeat was not answered in time")
        return DeadlineError("the oracle did not answer in time")

    def prefer(self, order: Sequence[Carrier]) -> None:
        """Send over these from now on, the first unless a request avoids it. What is in flight stays where it is."""
        self._order = order
        self._carriers += (carrier for carrier in order if carrier not in self._carriers)
        if not order:
            self._stuck.set()
        self._pump()

    def lost(self, carrier: Carrier) -> None:
        """A connection has ended; what was in flight over it goes over the next one."""
        if carrier in self._carriers:
            self._carriers.remove(carrier)
        self._order = [other for other in self._order if other is not carrier]
        for question in self._waiting_at(carrier):
            question.was_lost = True
            self._queue((question,), first=True)

    def move_on(self, carrier: Carrier) -> None:
        """Ask others, too, what is in flight over a connection that may hang; whoever answers first is heard."""
        if self._order and self._order[0] is not carrier:
            elsewhere = self._order[0]
            waiting = self._waiting_at(carrier)
            self._queue([one for one in waiting if one.id not in elsewhere.in_flight], first=True)
            self._pump()

    def retire(self, carrier: Carrier, farewell: str) -> None:
        """Send nothing more over a connection, and end it once everything in flight is answered."""
        carrier.is_open = False
        carrier.farewell = farewell
        carrier.end_if_done()

    def reject(self, rejection: RejectedError) -> None:
        """End every open request: waiting would not help."""
        for question in self._open.values():
            if question.answer is None:
                question.rejection = rejection
                question.done.set()

    def settle(self, carrier: Carrier, message: Reply) -> None:
        """Give an answer to whom it is for; answers to those who are gone are dropped.

        Raises:
            RemoteProtocolError: parts of a certificate out of order.
        """
        answer = carrier.take(message)
        if answer is None:
            return
        question = self._open.get(message.id)
        # A failure counts only from the last one that was asked: another may still sign.
        if question is not None and not question.done.is_set() and not self._is_elsewhere(question, carrier, answer):
            question.answer, question.answered_by = answer, carrier
            try:
                question.hear(answer)
            except Exception as error:  # noqa: BLE001  it is the asker's own: not the connection's, which others use
                question.error = error
            question.done.set()
        carrier.end_if_done()
        if self._unsent:
            self._pump()

    def _is_elsewhere(self, question: Question, carrier: Carrier, answer: Answer) -> bool:
        return isinstance(answer, Failed) and (
            question.is_queued
            or any(question.id in other.in_flight for other in self._carriers if other is not carrier)
        )

    def _waiting_at(self, carrier: Carrier) -> list[Question]:
        found = (self._open.get(request_id) for request_id in reversed(carrier.in_flight))
        return [question for question in found if question is not None and not question.done.is_set()]

    def _queue(self, questions: Sequence[Question], *, first: bool = False) -> None:
        """Let questions be sent; those that waited longest come last in `questions` when they are to be first."""
        for question in questions:
            if not question.is_queued:
                question.is_queued = True
                (self._unsent.appendleft if first else self._unsent.append)(question)

    def _pump(self) -> None:
        while self._unsent:
            question = self._unsent[0]
            is_wanted = self._open.get(question.id) is question and not question.done.is_set()
            carrier = self._carrier_for(question) if is_wanted else None
            if is_wanted and (carrier is None or not carrier.has_room()):
                return
            self._unsent.popleft()
            question.is_queued = False
            if carrier is not None:
                self._send(question, carrier)

    def _carrier_for(self, question: Question) -> Carrier | None:
        chosen = None
        for carrier in self._order:
            if carrier.is_open:
                if carrier.oracle not in question.avoid:
                    return carrier
                chosen = chosen or carrier
        return chosen

    def _send(self, question: Question, carrier: Carrier) -> None:
        if question.sent_to and question.sent_to[-1] != carrier.node:
            self.moved += 1
            words = "request goes to another node, request=%s from=%s to=%s"
            logger.info(words, question.id, question.sent_to[-1], carrier.node)
        question.sent_to.append(carrier.node)
        carrier.send(question.id, question.expires, question.make())
