"""Asks the oracle for signatures: the straight way while all goes as it mostly does, else by the detour."""

import logging
import math
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentproxy.protocol.key_messages import SelectKey, ServedKey
from agentproxy.protocol.oracle_messages import Credentials, Refused
from agentproxy.protocol.seal_messages import Sealed
from agentproxy.protocol.values import frozen
from relay.config import RelayConfig
from relay.errors import DeadlineError
from relay.heads import KEEP_SECONDS, Heads
from relay.sealed.errors import NotSealedError
from relay.sealed.keychoice import KeyWanted, Undecided, choose
from relay.sealed.renewing import renew
from relay.sealed.straight import Reply, StraightWay, UnusualError, open_straight
from relay.sealed.waker import Waker
from relay.signrequests import SealRequest, new_request_id

if TYPE_CHECKING:
    from relay.sealed.detour import Detour

__all__ = ["Answer", "Asker", "open_asker"]

logger = logging.getLogger(__name__)

# As the relay's: an oracle that has requests and answers none of them for so long hangs, or the connection does.
STALL_SECONDS = 5.0

Answer = tuple[str, Sealed | Exception]  # a request's id, and what it came to


@frozen
class _Question:
    """A request on the straight way."""

    key: ServedKey
    request: SealRequest
    expires: float  # as `Asker._clock`


class Asker:
    """Has many requests in flight; any thread may ask, and one at a time takes the answers.

    Args:
        config: the relay's.
        heads: gets each end of an oracle's audit log, on the straight way.
        straight: connected; None: there is no straight way.

    Attributes:
        at_work: for whoever takes the answers: there is one at a time.
    """

    def __init__(self, config: RelayConfig, heads: Heads, straight: StraightWay | None) -> None:
        self.at_work = threading.Lock()
        self._config = config
        self._heads = heads
        self._heads_due = time.monotonic() + KEEP_SECONDS
        self._straight = straight
        self._is_retired = False  # nothing new goes the straight way
        self._open: dict[str, _Question] = {}  # on the straight way, in the order in which they were asked
        self._heard = 0.0  # the last answer there, or the first question since; as `_clock`
        self._left: float | None = time.monotonic()  # since when nobody takes answers
        self._untaken = 0.0  # seconds before that in which nobody did
        self._detour: Detour | None = None
        self._delivered: list[Answer] = []  # by the detour
        self._lock = threading.Lock()  # of all that two threads change
        self._waker = Waker()
        self._waiting = select.poll()
        self._waiting.register(self._waker, select.POLLIN)
        if straight is not None:
            self._waiting.register(straight, select.POLLIN)

    def choose(self, wanted: KeyWanted) -> ServedKey:
        """The one key that fits; where several are for a distribution, the oracle says which. It blocks.

        Raises:
            ConfigError: none fits, or more than one.
            UnreachableError: no oracle was there within the configuration's deadline.
            RejectedError: no oracle takes this runner.
        """
        if self._straight is not None:
            try:
                return _chosen(self._straight, wanted)
            except UnusualError as error:
                self._abandon(error)
        return self._around().choose(wanted)

    def ask(self, key: ServedKey, request: SealRequest) -> None:
        """Ask for a signature by `key`; `answers` has what comes of it."""
        is_first = False
        with self._lock:
            now = self._clock()
            question = _Question(key, request, now + self._config.deadline_seconds)
            straight = None if self._is_retired else self._straight
            if straight is not None:
                if not self._open:
                    self._heard = now
                    is_first = self._left is None
                self._open[request.id] = question
        if straight is None:
            self._send_around(question)
            return
        if is_first:
            self.wake()  # whoever takes the answers knows of no end to that
        try:
            straight.send(lambda: request.message(self._left_ms(question)), request.id)
        except UnusualError:
            self.wake()  # whoever takes the answers meets it, too, and lets all that is open go around

    def answers(self, until: float = math.inf) -> list[Answer]:
        """What has come, at least one unless `until`, on the monotonic clock, passes or somebody calls `wake`.

        An answer is not checked yet: whether it is a signature, and over what.
        """
        with self._lock:
            if self._left is not None:
                self._untaken += time.monotonic() - self._left
            self._left = None
        try:
            return self._awaited(until)
        finally:
            with self._lock:
                self._left = time.monotonic()

    def _clock(self) -> float:
        """The monotonic clock, less what nobody took answers: no oracle is slow because all of us wait for a disk."""
        return (time.monotonic() if self._left is None else self._left) - self._untaken

    def _awaited(self, until: float) -> list[Answer]:
        while True:
            found = self._arrived()
            now = time.monotonic()
            if found or self._waker.was_woken() or now >= until:
                return found
            end = min(until, self._patience_ends())
            self._waiting.poll(None if end == math.inf else max(0, math.ceil((end - now) * 1000)))

    def wake(self) -> None:
        """Let whoever waits for answers go, or whoever does so next; once it is closed, nothing."""
        self._waker.wake()

    def _arrived(self) -> list[Answer]:
        with self._lock:
            found, self._delivered = self._delivered, []
        straight = self._straight
        if straight is not None:
            try:
                self._look(straight, found)
            except UnusualError as error:
                self._abandon(error)
        return found

    def _look(self, straight: StraightWay, found: list[Answer]) -> None:
        while replies := straight.receive():  # until what ended the way behind them has shown
            self._heard = self._clock()
            for reply in replies:
                self._take(reply, found)
        now = self._clock()
        self._is_retired |= straight.is_leaving
        self._keep_time(now, found)
        if self._is_retired and not self._open:
            raise UnusualError("the oracle was left")

    def _take(self, reply: Reply, found: list[Answer]) -> None:
        with self._lock:
            question = self._open.pop(reply.id, None)
        if question is None:
            return  # it took too long
        if isinstance(reply, Sealed):
            found.append((reply.id, reply))
        elif isinstance(reply, Refused) and reply.retry_after_ms is None:
            found.append((reply.id, NotSealedError(reply.reason, reply.code)))
        else:
            # A limit, or a failure that another oracle may not have: those behind this one would meet it as well.
            self._is_retired = True
            self._send_around(question)

    def _keep_time(self, now: float, found: list[Answer]) -> None:
        while (first := self._first()) is not None and first.expires <= now:
            with self._lock:
                del self._open[first.request.id]
            found.append((first.request.id, DeadlineError("the oracle did not answer in time")))
        if self._open and now - self._heard >= STALL_SECONDS:
            raise UnusualError("the oracle does not answer")
        if time.monotonic() >= self._heads_due:
            self._heads_due = time.monotonic() + KEEP_SECONDS
            self._heads.write()

    def _patience_ends(self) -> float:
        """Until when nothing need come, on the monotonic clock."""
        first = self._first()
        return math.inf if first is None else min(first.expires, self._heard + STALL_SECONDS) + self._untaken

    def _first(self) -> _Question | None:
        with self._lock:  # another thread may ask between the two calls
            return next(iter(self._open.values()), None)

    def _abandon(self, reason: UnusualError) -> None:
        """Leave the straight way; what is open there goes around, under the same ids: an oracle knows its own again."""
        logger.info("the straight way ends, reason=%s", reason)
        with self._lock:
            straight, self._straight = self._straight, None
            questions, self._open = list(self._open.values()), {}
        if straight is not None:
            self._waiting.unregister(straight)
            straight.close()
            self._heads.write()  # here: the detour reads the file
        for question in questions:
            self._send_around(question)

    def _send_around(self, question: _Question) -> None:
        expires = time.monotonic() + question.expires - self._clock()
        self._around().ask(question.key, question.request, expires)

    def _left_ms(self, question: _Question) -> int:
        return max(0, int((question.expires - self._clock()) * 1000))

    def _around(self) -> "Detour":
        with self._lock:
            if self._detour is None:
                from relay.sealed.detour import Detour  # noqa: PLC0415  few need it, and it is what takes long to load

                self._detour = Detour(self._config, self._deliver)
            return self._detour

    def _deliver(self, request_id: str, result: Sealed | Exception) -> None:
        with self._lock:
            self._delivered.append((request_id, result))
        self.wake()

    def close(self) -> Credentials | None:
        """Say goodbye to all oracles; nobody may use it any more. It blocks for some seconds at most.

        Returns:
            New credentials that an oracle sent, and nobody has taken yet.
        """
        straight, detour = self._straight, self._detour
        if straight is not None:
            straight.close()
        self._heads.write()
        if detour is not None:
            detour.close()
        self._waker.close()
        return None if straight is None or detour is not None else straight.credentials


def _chosen(straight: StraightWay, wanted: KeyWanted) -> ServedKey:
    chosen = choose(straight.keys, wanted)
    if not isinstance(chosen, Undecided):
        return chosen
    answer = straight.select(SelectKey(new_request_id(), chosen.distribution, chosen.key_type))
    if isinstance(answer, Refused):
        raise chosen.unanswered(answer.reason)
    return answer.key


@contextmanager
def open_asker(config: RelayConfig) -> Iterator[Asker]:
    """Connect to the oracle that relay.yaml names, and stay connected for as long as the block lasts.

    Raises:
        ConfigError: the credentials cannot be read.
    """
    heads = Heads(config.state / "heads.json")
    heads.load()
    try:
        straight = open_straight(config, heads)
    except UnusualError as error:
        logger.info("there is no straight way, reason=%s", error)
        straight = None
    asker = Asker(config, heads, straight)
    try:
        yield asker
    except BaseException:
        asker.close()  # who interrupts us, or cannot go on, does not wait for a renewal
        raise
    credentials = asker.close()
    if credentials is not None:
        renew(config, credentials)
