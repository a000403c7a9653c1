"""One signature as the relay sees it: claims, the oracle's answer, the check, the log. gpg's protocol is elsewhere."""

import time
from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Protocol

import trio

from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.errors import BlindOracleError
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.gpgerror import GpgError
from agentproxy.protocol.oracle_messages import Failed, Refused, Signed
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.values import frozen
from relay.client import Client
from relay.door import Visitor
from relay.errors import DeadlineError, RejectedError, UnreachableError
from relay.keylist import KeyList
from relay.pending import Answer
from relay.requestlog import Outcome, RequestEntry, RequestLog
from relay.session import HashRefused, SignNeeded
from relay.signrequests import SignRequest, new_request_id
from relay.verify import Verdict, Verifier

__all__ = ["Deliver", "NotSignedError", "SignatureSource", "SigningService", "refusal_entry"]

# What gpg shows is the code's words, so they are chosen for the person who reads them.
_REFUSALS: Mapping[RefusalCode, GpgError] = {
    RefusalCode.FORBIDDEN: GpgError.FORBIDDEN,
    RefusalCode.KEY_UNKNOWN: GpgError.NO_SECKEY,
    RefusalCode.HASH_FORBIDDEN: GpgError.DIGEST_ALGO,
    RefusalCode.DISTRIBUTION_FORBIDDEN: GpgError.FORBIDDEN,
    RefusalCode.DISTRIBUTION_MISSING: GpgError.FORBIDDEN,
    RefusalCode.RATE_LIMITED: GpgError.LIMIT_REACHED,
    RefusalCode.QUEUE_FULL: GpgError.LIMIT_REACHED,
    RefusalCode.DEADLINE_PASSED: GpgError.TIMEOUT,
    RefusalCode.ID_REUSED: GpgError.INTERNAL,
}
_FAILURES: Mapping[FailureCode, GpgError] = {
    FailureCode.BACKEND: GpgError.SERVER_FAILED,
    FailureCode.KEY_UNAVAILABLE: GpgError.UNUSABLE_SECKEY,
    FailureCode.BAD_SIGNATURE: GpgError.BAD_SIGNATURE,
    FailureCode.NOT_OPERATIONAL: GpgError.NOT_OPERATIONAL,
    FailureCode.INTERNAL: GpgError.INTERNAL,
}
_FAILURE_REASONS: Mapping[FailureCode, str] = {
    FailureCode.BACKEND: "the oracle's backend gave no signature",
    FailureCode.KEY_UNAVAILABLE: "the oracle cannot use this key",
    FailureCode.BAD_SIGNATURE: "the oracle's own check of the signature failed",
    FailureCode.NOT_OPERATIONAL: "the oracle is not operational; its audit log may not be writable",
    FailureCode.INTERNAL: "the oracle failed",
}


Deliver = Callable[[Signature], None]


class NotSignedError(BlindOracleError):
    """There is no signature.

    Attributes:
        gpg_error: what gpg is told.
        outcome, code: what the log is told.
    """

    def __init__(self, gpg_error: GpgError, outcome: Outcome, code: str, reason: str) -> None:
        super().__init__(reason)
        self.gpg_error = gpg_error
        self.outcome = outcome
        self.code = code


@frozen
class _End:
    time: datetime
    took_ms: int


class SignatureSource(Protocol):
    """Where a conversation gets its signatures: from an oracle, or from the host's own key."""

    @property
    def log(self) -> RequestLog:
        """Where each request's end is noted."""

    def expect(self) -> None:
        """gpg has found its key, and will mostly ask for a signature within milliseconds."""

    async def sign(self, need: SignNeeded, visitor: Visitor, claims: Claims | None, deliver: Deliver) -> None:
        """Deliver a signature that the public key confirms, or raise NotSignedError."""

    def refused_here(
        self, visitor: Visitor, reason: str, about: HashRefused | None = None, claims: Claims | None = None
    ) -> None:
        """Note that the relay itself refused a command."""


@frozen
class SigningService:
    """Gets signatures from the oracle, checks them, and says in the log what became of each request."""

    client: Client
    keys: KeyList
    log: RequestLog
    deadline_seconds: float
    stay_awake: Callable[[], None] = lambda: None  # called when a signature is expected, or under way
    verifier: Verifier = field(default_factory=Verifier)

    def expect(self) -> None:
        """Have processors awake when it comes to signing."""
        self.stay_awake()

    async def sign(self, need: SignNeeded, visitor: Visitor, claims: Claims | None, deliver: Deliver) -> None:
        """Get a signature that the public key confirms.

        Args:
            deliver: called with it, in the moment that it arrives.

        Raises:
            NotSignedError: with the words for gpg and the reason for the log, which has it already.
        """
        started = time.perf_counter()
        self.stay_awake()
        request = _request(need, visitor, claims)
        try:
            await self._obtain(need, request, deliver)
        except NotSignedError as error:
            self.log.add(self._entry(need, visitor, request, _end(started), error))
            raise
        except trio.Cancelled:
            gone = NotSignedError(GpgError.CANCELED, Outcome.ABANDONED, "caller_gone", "gpg ended, or the relay stops")
            self.log.add(self._entry(need, visitor, request, _end(started), gone))
            raise
        end = _end(started)
        self.log.put_off(lambda: self._entry(need, visitor, request, end, None))

    async def _obtain(self, need: SignNeeded, request: SignRequest, deliver: Deliver) -> None:
        def hear(answer: Answer) -> None:
            if isinstance(answer, Signed):
                self._check(need, answer.signature)
                deliver(answer.signature)

        try:
            answer = await self.client.sign(request, self.deadline_seconds, hear)
        except UnreachableError as error:
            raise NotSignedError(GpgError.NETWORK, Outcome.FAILED, "unreachable", str(error)) from error
        except DeadlineError as error:
            raise NotSignedError(GpgError.TIMEOUT, Outcome.FAILED, "timeout", str(error)) from error
        except RejectedError as error:
            is_down = error.code is RejectionCode.NOT_OPERATIONAL
            code = GpgError.NOT_OPERATIONAL if is_down else GpgError.FORBIDDEN
            raise NotSignedError(code, Outcome.FAILED, error.code.value, str(error)) from error
        match answer:
            case Refused():
                raise NotSignedError(_REFUSALS[answer.code], Outcome.REFUSED, answer.code.value, _reason(answer))
            case Failed():
                reason = _FAILURE_REASONS[answer.code]
                raise NotSignedError(_FAILURES[answer.code], Outcome.FAILED, answer.code.value, reason)

    def _check(self, need: SignNeeded, signature: Signature) -> None:
        """Raise NotSignedError unless the public key confirms it."""
        public_key = self.keys.public_key(need.keygrip)
        if public_key is None:
            reason = "the oracle took this key from the runner while it signed"
            raise NotSignedError(GpgError.NO_SECKEY, Outcome.FAILED, "key_gone", reason)
        if self.verifier.verify(public_key, need.digest, signature) is Verdict.BAD:
            reason = "the oracle's signature is not the key's own; gpg did not get it"
            raise NotSignedError(GpgError.BAD_SIGNATURE, Outcome.FAILED, "bad_signature", reason)

    def _entry(
        self, need: SignNeeded, visitor: Visitor, request: SignRequest, end: _End, error: NotSignedError | None
    ) -> RequestEntry:
        key = self.keys.find(need.keygrip)
        return RequestEntry(
            time=end.time,
            id=request.id,
            outcome=error.outcome if error else Outcome.SIGNED,
            code=error.code if error else "",
            reason=str(error) if error else "",
            gpg_says=error.gpg_error.text if error else "",
            duration_ms=end.took_ms,
            key=key.facts.name if key else "",
            keygrip=str(need.keygrip),
            hash_algorithm=need.digest.algorithm.name.lower(),
            uid=visitor.peer.uid,
            pid=visitor.peer.pid,
            socket=visitor.door.name,
            claims=request.claims,
            nodes=tuple(request.sent_to),
        )

    def refused_here(
        self, visitor: Visitor, reason: str, about: HashRefused | None = None, claims: Claims | None = None
    ) -> None:
        """Note that the relay itself refused a command, and why: gpg's user sees only a code's words."""
        self.log.add(refusal_entry(visitor, reason, about, claims))


def refusal_entry(
    visitor: Visitor, reason: str, about: HashRefused | None, claims: Claims | None, fallback: str = ""
) -> RequestEntry:
    """That the relay itself refused a command."""
    key = None if about is None else about.key
    return RequestEntry(
        time=datetime.now(UTC),
        id=new_request_id(),
        outcome=Outcome.REFUSED,
        code="relay",
        reason=reason,
        gpg_says="",
        duration_ms=0,
        key="" if key is None else key.name,
        keygrip="" if key is None else str(key.keygrip),
        hash_algorithm="" if about is None else about.algorithm.name.lower(),
        claims=claims,
        uid=visitor.peer.uid,
        pid=visitor.peer.pid,
        socket=visitor.door.name,
        fallback=fallback,
    )


def _end(started: float) -> _End:
    return _End(datetime.now(UTC), round((time.perf_counter() - started) * 1000))


def _request(need: SignNeeded, visitor: Visitor, claims: Claims | None) -> SignRequest:
    door = visitor.door
    return SignRequest(new_request_id(), need.keygrip, need.digest, door.distribution, claims, door.name)


def _reason(refused: Refused) -> str:
    if refused.retry_after_ms is None:
        return refused.reason
    return f"{refused.reason}; again after {refused.retry_after_ms} ms"
