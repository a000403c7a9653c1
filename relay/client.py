"""The relay's client: chooses among oracles, and asks the best one over connections that all gpg processes share.

When a connection dies or an oracle fails, its requests go to another, within their deadlines.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from math import inf

import trio

from agentproxy.protocol.journal import JournalRecord, Report, Reported
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.messages import (
    Credentials,
    Failed,
    FailureCode,
    FetchCertificate,
    Refused,
    RejectionCode,
    Seal,
    Sealed,
    SelectedKey,
    SelectKey,
    ServedKey,
    Sign,
    Signed,
)
from relay.carrier import Answer, Carrier
from relay.choice import order, wanted
from relay.config import OracleAddress
from relay.connectionstate import ConnectionState, OracleState
from relay.credentials import CredentialStore
from relay.lines import Dial, Lines
from relay.link import RejectedError
from relay.pending import STALL_SECONDS, PendingRequests, Question, UnreachableError, new_request_id
from relay.renewal import Renewal
from relay.signrequests import SealRequest, SignRequest
from relay.way import HeadKeeper, PermissionKeeper, Way

__all__ = ["Client"]

logger = logging.getLogger(__name__)

# While the signer behind the oracle restarts, on a busy host with keys to unlock for some seconds, no build shall
# fail. Later tries are the caller's own business.
FAILURE_RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0)
CERTIFICATE_SECONDS = 10.0
# For records that wait for one fdatasync together; what is late is reported again.
REPORT_SECONDS = 20.0
_ANOTHER = "the oracle answers another question than it was asked"


class Client:
    """Asks oracles to sign.

    Args:
        oracles: the first that is well is asked; the next one's connection is kept warm.
        dial: opens connections.
        keys_arrived: gets the keys that the oracle in use serves, whenever they may be others.
        heads: gets each end of an oracle's audit log.
        store: where `dial` finds its credentials, when they can be replaced.
        permission: gets what the oracle in use says about falling back; None: nobody falls back here.
    """

    def __init__(  # noqa: PLR0913, PLR0917  whom to ask, and who keeps what is told
        self,
        oracles: Sequence[OracleAddress],
        dial: Dial,
        keys_arrived: Callable[[tuple[ServedKey, ...]], Awaitable[None]],
        heads: HeadKeeper,
        store: CredentialStore | None = None,
        permission: PermissionKeeper | None = None,
    ) -> None:
        self._keys_arrived = keys_arrived
        self._permission = permission
        self._pending = PendingRequests(self._stalled)
        self._ways = [Way(oracle, dial, self._pending, heads, self) for oracle in oracles]
        self._by_address = {way.address: way for way in self._ways}
        self._best: Way | None = None
        self._renewal = Renewal(store, lambda: [way.lines for way in self._ways if way.carrier is not None])
        self._unreachable_since: float | None = trio.current_time()
        self._keys: tuple[ServedKey, ...] | None = None  # of the oracle in use
        self._told = ("", False)  # its node, and whether we may fall back
        self._keys_due = trio.Event()
        self._tasks: trio.Nursery | None = None
        self._timers: set[float] = set()  # when `changed` will be called
        self._has_twins = False
        self._met = trio.Event()
        self._rejection: RejectedError | None = None

    async def met(self) -> None:
        """Return once an oracle has had us welcome.

        Raises:
            RejectedError: no oracle takes this relay.
        """
        await self._met.wait()
        if self._rejection is not None:
            raise self._rejection

    async def sign(self, request: SignRequest, deadline_seconds: float) -> Signed | Refused | Failed:
        """Ask for a signature, also across oracles, connections and restarts, until `deadline_seconds` have passed.

        Raises:
            UnreachableError: no oracle was there in time.
            DeadlineError: an oracle was, and did not answer in time.
            RejectedError: no oracle takes this relay at all.
        """
        answer = await self._ask(_question(request, deadline_seconds))
        if not isinstance(answer, Signed | Refused | Failed):
            raise UnreachableError(_ANOTHER)
        return answer

    async def seal(self, request: SealRequest, deadline_seconds: float) -> Sealed | Refused | Failed:
        """Ask for an OpenPGP signature over a document; as `sign`."""
        answer = await self._ask(_question(request, deadline_seconds))
        if not isinstance(answer, Sealed | Refused | Failed):
            raise UnreachableError(_ANOTHER)
        return answer

    async def _ask(self, question: Question) -> Answer:
        """The last answer, after more tries when an oracle failed: at others, and later where that may help."""
        pauses = iter(FAILURE_RETRY_SECONDS)
        while True:
            answer = await self._pending.ask(question)
            if not isinstance(answer, Failed) or not await self._may_retry(question, answer, pauses):
                return answer

    async def _may_retry(self, question: Question, failure: Failed, pauses: Iterator[float]) -> bool:
        """After a failure: whether to ask again, at once another oracle that has not failed it, else after a pause."""
        if question.answered_by is not None:
            question.avoid.add(question.answered_by.oracle)
            if failure.code is FailureCode.NOT_OPERATIONAL and self._has_other(question):
                self._by_address[question.answered_by.oracle].ail("the oracle is not operational")
        question.may_pass = question.may_pass or failure.retryable
        if self._has_other(question):
            return True
        pause = next(pauses, None)
        if not question.may_pass or pause is None or trio.current_time() + pause >= question.expires:
            return False
        question.avoid.clear()
        question.may_pass = False
        await trio.sleep(pause)
        return True

    def _has_other(self, question: Question) -> bool:
        return any(way.candidate().is_connected and way.address not in question.avoid for way in self._ways)

    async def select_key(self, distribution: str, key_type: str | None, deadline_seconds: float) -> ServedKey | Refused:
        """Which of this runner's keys is for a distribution; errors as in `sign`."""
        request_id = new_request_id()
        expires = trio.current_time() + deadline_seconds
        answer = await self._ask(Question(request_id, expires, lambda: SelectKey(request_id, distribution, key_type)))
        if not isinstance(answer, SelectedKey | Refused):
            raise UnreachableError(_ANOTHER)
        return answer.key if isinstance(answer, SelectedKey) else answer

    async def report(self, records: tuple[JournalRecord, ...]) -> Reported | Refused | Failed:
        """Bring records of our own signatures into an oracle's audit log.

        Raises:
            UnreachableError, DeadlineError, RejectedError: as in `sign`.
        """
        request_id = new_request_id()
        expires = trio.current_time() + REPORT_SECONDS
        answer = await self._pending.ask(Question(request_id, expires, lambda: Report(request_id, records)))
        if not isinstance(answer, Reported | Refused | Failed):
            raise UnreachableError(_ANOTHER)
        return answer

    async def certificate(self, fingerprint: Fingerprint) -> bytes:
        """The OpenPGP certificate, binary, that the key with this fingerprint stands in.

        Raises:
            UnreachableError: no oracle was there in time, or it has no such certificate.
            DeadlineError, RejectedError: as in `sign`.
        """
        request_id = new_request_id()
        expires = trio.current_time() + CERTIFICATE_SECONDS
        question = Question(request_id, expires, lambda: FetchCertificate(request_id, fingerprint))
        answer = await self._ask(question)
        if not isinstance(answer, tuple):
            raise UnreachableError(f"the oracle gives no certificate for {fingerprint}")
        return b"".join(part.data for part in answer)

    async def run(self) -> None:
        """Keep connections up until cancelled."""
        async with trio.open_nursery() as nursery:
            self._tasks = nursery
            self.changed()
            nursery.start_soon(self._follow_keys)
            for way in self._ways:
                nursery.start_soon(way.run)

    async def _follow_keys(self) -> None:
        while True:
            await self._keys_due.wait()
            self._keys_due = trio.Event()
            node, may_fall_back = self._told
            if self._permission is not None:
                await self._permission.told(node, allowed=may_fall_back)
            await self._keys_arrived(self._keys or ())

    def changed(self) -> None:
        """Choose anew where requests go (for the ways)."""
        now = trio.current_time()
        candidates = [way.candidate() for way in self._ways]
        current = self._ways.index(self._best) if self._best is not None else None
        chosen = [self._ways[place] for place in order(candidates, current, now)]
        self._take(chosen[0] if chosen else None)
        for way, is_wanted in zip(self._ways, wanted(candidates, now), strict=True):
            way.want(wanted=is_wanted or way is self._best)
            way.take_stand(is_best=way is self._best)
        self._note_reach()
        self._pending.prefer([way.carrier for way in chosen if way.carrier is not None])
        for moment in {moment for way in self._ways for moment in way.moments() if now < moment < inf} - self._timers:
            self._timers.add(moment)
            if self._tasks is not None:
                self._tasks.start_soon(self._change_at, moment)

    async def _change_at(self, moment: float) -> None:
        await trio.sleep_until(moment)
        self._timers.discard(moment)
        self.changed()

    def _take(self, best: Way | None) -> None:
        if best is not None and (best.keys is not self._keys or best.fallback is not self._told[1]):
            self._keys, self._told = best.keys, (best.carrier.node if best.carrier else "", best.fallback)
            self._keys_due.set()
        if best is not None and best is not self._best and len(self._ways) > 1:
            before = self._best.state if self._best is not None else None
            logger.log(
                logging.INFO if before is None or not before.problem else logging.WARNING,
                "requests go to another oracle, node=%s address=%s before=%s reason=%r",
                best.state.node, best.address, before.address if before else "-", before.problem if before else "",
            )  # fmt: skip
        self._best = best
        if best is not None:
            self._rejection = None
            self._met.set()

    def _note_reach(self) -> None:
        nodes = [way.carrier.node for way in self._ways if way.carrier is not None]
        if nodes:
            self._unreachable_since = None
        elif self._unreachable_since is None:
            self._unreachable_since = trio.current_time()
        self._pending.problem = self._problem()
        has_twins = len(set(nodes)) < len(nodes)
        if has_twins and not self._has_twins:
            logger.warning("two addresses lead to one oracle, or two oracles have one name, nodes=%s", ",".join(nodes))
        self._has_twins = has_twins

    def _problem(self) -> str:
        if len(self._ways) == 1:
            return self._ways[0].state.problem
        return "; ".join(f"{way.address}: {way.state.problem}" for way in self._ways if way.state.problem)

    def _stalled(self, carrier: Carrier) -> None:
        """A connection carries requests and no answers: give them to another oracle, too, if there is one."""
        way = self._by_address[carrier.oracle]
        if any(other.is_well for other in self._ways if other is not way):
            way.ail(f"it has answered nothing for {STALL_SECONDS:.0f} s")
            self._pending.move_on(carrier)

    def was_rejected(self, rejection: RejectedError) -> None:
        """Tell those who wait, unless another oracle may take this relay (for the ways)."""
        if any(way.candidate().is_connected or way.candidate().is_untried for way in self._ways):
            return
        if self._tasks is not None and self._permission is not None:
            self._tasks.start_soon(self._permission.rejected, rejection)
        # One that is not operational may become so, and one that is away may come back: what counts is who is sure.
        if rejection.code is not RejectionCode.NOT_OPERATIONAL or all(way.rejection is not None for way in self._ways):
            self._pending.reject(rejection)
            self._rejection = rejection
            self._met.set()

    def renew_soon(self, credentials: Credentials, lines: Lines) -> None:
        """Store and use new credentials (for the ways)."""
        if self._tasks is not None:
            self._tasks.start_soon(self._renewal.take, credentials, lines)

    @property
    def state(self) -> ConnectionState:
        """Whether requests can be sent, and where they go."""
        best = self._best
        if best is not None:
            state = best.state
            return ConnectionState(
                connected=True,
                address=best.address,
                since=state.since,
                node=state.node,
                clock_ahead_seconds=best.clock_ahead_seconds,
            )
        first = self._ways[0].state
        return ConnectionState(connected=False, address=first.address, since=first.since, problem=self._problem())

    @property
    def oracles(self) -> tuple[OracleState, ...]:
        """How each oracle is, in the configuration's order."""
        return tuple(way.state for way in self._ways)

    @property
    def moved(self) -> int:
        """How many requests were sent to another node after the first."""
        return self._pending.moved

    @property
    def waiting(self) -> int:
        """How many requests wait for an answer."""
        return len(self._pending)

    @property
    def unreachable_since(self) -> float | None:
        """Since when, on trio's clock, no oracle has had us welcome; None: one has, whatever it answers."""
        return self._unreachable_since

    async def idle(self) -> None:
        """Return as soon as no request waits for an answer."""
        await self._pending.idle()


def _question(request: SignRequest | SealRequest, deadline_seconds: float) -> Question:
    expires = trio.current_time() + deadline_seconds

    def make() -> Sign | Seal:
        return request.message(max(0, int((expires - trio.current_time()) * 1000)))

    return Question(request.id, expires, make, request.sent_to)
