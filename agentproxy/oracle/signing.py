"""The oracle on one screen: how a request becomes a signature, or does not.

Every way in (relay stream, HTTP, ssh) ends in `SigningService.sign` or `seal`; nothing else asks the signer for
signatures.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import trio

from agentproxy.oracle.caller import Caller
from agentproxy.oracle.limits import Bucket, Limits
from agentproxy.oracle.policy import Decision, Deny, Policy, Priority, Question, decide
from agentproxy.oracle.queue import Turns
from agentproxy.oracle.refusals import Refusals
from agentproxy.oracle.requests import Answer, Job, Made, Requests, Wanted
from agentproxy.oracle.signerlink import SignerError
from agentproxy.oracle.tally import Tally
from agentproxy.protocol.codes import FailureCode, RefusalCode
from agentproxy.protocol.errors import BackendError, BlindOracleError, RefusedError
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.keys import Keygrip, PublicKey, RsaPublicKey
from agentproxy.protocol.oracle_messages import Signed
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.seal_messages import Seal, Sealed, SealState, StateSealed
from agentproxy.protocol.signer_answers import DigestSigned
from agentproxy.protocol.signer_requests import Record, SignDigest
from agentproxy.runtime.afterwards import Afterwards

__all__ = ["SignatureSource", "SigningService"]

logger = logging.getLogger(__name__)

# Six signatures with RSA for each core: fewer leave the signer's threads without a next one, and everything is carried
# singly. With Ed25519 enough that the disk has full batches.
_WINDOW = 24 * (os.cpu_count() or 1)
_RSA_WEIGHT = 4
_SMALL_WEIGHT = 1
_MOST_WAITING = 16_384
_MOST_WAITING_PER_RUNNER = 4096
_ALWAYS_WAITING = 64  # of each runner: four that flood must not turn away a fifth with a repository to sign


class SignatureSource(Protocol):
    """What we need of the signer; `agentproxy.oracle.signerlink` is the real one."""

    def next_id(self) -> int:
        """An id for the next request."""

    def sign(
        self, request: SignDigest | SealState, answer: Callable[[DigestSigned | StateSealed | BackendError], None]
    ) -> None:
        """Ask for a signature; `answer` is called once, perhaps before this returns."""

    def record(self, request: Record) -> None:
        """Ask for a record, without waiting for it."""


class SigningService:
    """Decides, queues and signs for all connections of this oracle.

    Args:
        clock: seconds, never going back.
        is_open: False while revocations may have been missed.
        stay_awake: called when a signature is under way.
    """

    def __init__(
        self,
        policy: Policy,
        signer: SignatureSource,
        clock: Callable[[], float],
        is_open: Callable[[], bool] = lambda: True,
        stay_awake: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy = policy  # replaced whole by a reload
        self.keys: dict[Keygrip, KeyFacts] = {}
        self.head: Head | None = None  # of the audit log, as far as we have heard
        self.refusals = Refusals(signer, clock)
        self.tally = Tally()
        self.afterwards = Afterwards()  # somebody must run it
        self._signer = signer
        self._is_open = is_open
        self._stay_awake = stay_awake
        self._clock = clock
        self._limits = Limits(clock)
        self._requests = Requests(clock)
        self._turns: Turns[Job] = Turns(
            self._start,
            window=_WINDOW,
            most=_MOST_WAITING,
            most_per_runner=_MOST_WAITING_PER_RUNNER,
            always=_ALWAYS_WAITING,
        )

    def serve_keys(self, keys: Iterable[KeyFacts], head: Head | None = None) -> None:
        """Take the list of keys that the signer serves from now on, and the end of its log where that is new to us."""
        self.keys = {key.keygrip: key for key in keys}
        self.head = head or self.head

    def note_end(self, head: Head) -> None:
        """Take an end of the log that a relay is about to hear of.

        To relays a `welcome` whose end lies before one that they know is the sign of a log that was cut.
        """
        self.head = head.or_later(self.head)  # answers may overtake each other

    async def sign(self, caller: Caller, request: Sign) -> Signed:
        """Give this caller a signature whose record is on disk.

        Raises:
            RefusedError: the policy said no, or LimitedError: not now.
            BackendError: the policy said yes, and yet there is no signature.
        """
        made = await self._outcome(caller, request)
        if not isinstance(made, Signed):
            raise TypeError(f"{made.tag} for a digest")  # cannot be: ids are bound to the operation
        return made

    async def seal(self, caller: Caller, request: Seal) -> Sealed:
        """Give this caller an OpenPGP signature over a document, made now; errors as in `sign`."""
        made = await self._outcome(caller, request)
        if not isinstance(made, Sealed):
            raise TypeError(f"{made.tag} for a hash state")
        return made

    async def _outcome(self, caller: Caller, request: Wanted) -> Made:
        outcomes: list[Made | BlindOracleError] = []
        over = trio.Event()

        def take(outcome: Made | BlindOracleError) -> None:
            outcomes.append(outcome)
            over.set()

        self.submit(caller, request, take)
        await over.wait()
        if isinstance(outcomes[0], BlindOracleError):
            # All who joined a job raise the same instance: without this its traceback would grow with each of them.
            raise outcomes[0].with_traceback(None)
        return outcomes[0]

    def submit(self, caller: Caller, request: Wanted, answer: Answer) -> None:
        """As `sign` and `seal`, without a task: `answer` gets, once, what those would return or raise.

        It is called among others' answers and must not raise.
        """
        try:
            job = self._admit(caller, request)
        except RefusedError as refusal:
            self.refusals.record(caller, request, refusal)
            self.tally.refused[refusal.code] += 1
            answer(refusal)
        except SignerError as failure:
            self.tally.failed[failure.code] += 1
            answer(failure)
        else:
            job.tell(answer)

    def _admit(self, caller: Caller, request: Wanted) -> Job:
        """Policy, limits, ids, queue. No await: nothing changes between the decision and the reservation."""
        if not self._is_open():
            raise SignerError(FailureCode.NOT_OPERATIONAL, "the registry is out of reach", retryable=True)
        began = self._clock()
        facts = self.keys.get(request.keygrip)
        decision = decide(self.policy, caller, _question(request), facts)
        decided = self._clock()
        self.tally.policy.observe(decided - began)
        if facts is None or isinstance(decision, Deny):
            denied = decision if isinstance(decision, Deny) else Deny(RefusalCode.KEY_UNKNOWN, "no such key")
            raise RefusedError(denied.code, denied.reason)
        job, is_new = self._requests.open(caller, request)
        if is_new:
            job.rule, job.weight, job.started = decision.rule, _weight(facts.public_key), decided
            counted: Sequence[Bucket] = ()
            try:
                counted = self._limits.take(caller, decision.runner)  # a repeat was counted when it was new
                self._turns.submit(caller.runner, decision.runner.priority, job.weight, job)
            except RefusedError as refusal:
                self._limits.give_back(counted)  # a queue that others fill must not eat this runner's rate
                self._requests.finish(job, refusal)
                raise
        return job

    def _start(self, job: Job) -> None:
        """A job's turn at the signer has come."""
        job.turn = self._clock()
        if job.deadline < job.turn:
            self._turns.done(job.weight)
            self._drop(job)
            return
        self.tally.queue.observe(job.turn - job.started)
        self._stay_awake()
        self._signer.sign(_order(self._signer.next_id(), job), lambda answer: self._finish(job, answer))

    def _finish(self, job: Job, answer: DigestSigned | StateSealed | BackendError) -> None:
        """The signer has answered; the next one's turn comes before anybody wakes up."""
        self._turns.done(job.weight)
        now = self._clock()
        milliseconds = (now - job.started) * 1000
        self.tally.signer.observe(now - job.turn)
        if isinstance(answer, BackendError):
            self.tally.failed[answer.code if isinstance(answer, SignerError) else FailureCode.BACKEND] += 1
            self._requests.finish(job, answer)
            logger.warning("not signed, %s ms=%.1f reason=%s", _who(job), milliseconds, answer)
            return
        self.note_end(answer.head)
        self.tally.signed[job.request.keygrip, job.request.tag] += 1
        self._requests.finish(job, _made(job.request.id, answer))
        sequence = answer.head.sequence
        self.afterwards.put_off(lambda: self._note_signed(job, sequence, milliseconds))

    def _note_signed(self, job: Job, sequence: int, milliseconds: float) -> None:
        logger.info("signed, %s rule=%s sequence=%d ms=%.1f", _who(job), job.rule, sequence, milliseconds)
        self._requests.put_away(job)

    @property
    def waiting(self) -> Mapping[Priority, int]:
        """How many wait for a turn, by priority."""
        return self._turns.waiting_by_priority

    def sweep(self) -> None:
        """Drop those in the queue whom nobody waits for any more; called about once a second."""
        now = self._clock()
        for job in self._turns.remove(lambda job: job.deadline < now):
            self._drop(job)
        self._requests.forget_old()
        self.refusals.summarize()

    def drop_revoked(self, may_stay: Callable[[Caller], bool]) -> None:
        """Drop those in the queue whose caller may no longer ask; called when credentials have changed.

        Somebody who joined such a request with good credentials may ask again: the failure says so.
        """
        for job in self._turns.remove(lambda job: not may_stay(job.caller)):
            refusal = RefusedError(RefusalCode.FORBIDDEN, "its credentials were revoked while it waited for its turn")
            self.tally.failed[FailureCode.BACKEND] += 1  # as which it is told
            self._requests.finish(job, SignerError(FailureCode.BACKEND, str(refusal), retryable=True))
            self.refusals.record(job.caller, job.request, refusal)

    def drop_denied(self) -> None:
        """Refuse those in the queue that would not get there any more; called when policy or keys have changed."""
        decisions: dict[tuple[str, Keygrip, Question], Decision] = {}

        def decision(job: Job) -> Decision:
            asked = job.caller.runner, job.request.keygrip, _question(job.request)
            if asked not in decisions:
                decisions[asked] = decide(self.policy, job.caller, asked[2], self.keys.get(asked[1]))
            return decisions[asked]

        for job in self._turns.remove(lambda job: isinstance(decision(job), Deny)):
            denied = decision(job)
            if isinstance(denied, Deny):
                self._refuse(job, RefusedError(denied.code, denied.reason))

    def _drop(self, job: Job) -> None:
        self._refuse(job, RefusedError(RefusalCode.DEADLINE_PASSED, "nobody waits for it any more"))

    def _refuse(self, job: Job, refusal: RefusedError) -> None:
        self.tally.refused[refusal.code] += 1
        self._requests.finish(job, refusal)
        self.refusals.record(job.caller, job.request, refusal)


def _question(request: Wanted) -> Question:
    claimed = request.claims.distributions if request.claims else ()
    if isinstance(request, Sign):
        return Question(request.digest.algorithm, request.distribution, claimed)
    return Question(request.state.algorithm, request.distribution, claimed, seal=True)


def _order(id_: int, job: Job) -> SignDigest | SealState:
    asked = job.request
    asserted = job.caller.asserted(asked.distribution, asked.claims, asked.socket)
    if isinstance(asked, Sign):
        return SignDigest(id_, asked.id, asked.keygrip, asked.digest, asserted)
    return SealState(id_, asked.id, asked.keygrip, asked.state, asserted)


def _made(id_: str, answer: DigestSigned | StateSealed) -> Made:
    if isinstance(answer, DigestSigned):
        return Signed(id_, answer.signature, answer.head)
    return Sealed(id_, answer.seal, answer.head)


def _weight(public_key: PublicKey) -> int:
    return _RSA_WEIGHT if isinstance(public_key, RsaPublicKey) else _SMALL_WEIGHT


def _who(job: Job) -> str:
    return (
        f"operation={job.request.tag} runner={job.caller.runner} keygrip={job.request.keygrip} request={job.request.id}"
    )
