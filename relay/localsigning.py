"""One signature by the host's own key: sign, check, write into the journal, and only then release."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import field
from datetime import UTC, datetime

import trio

from agentproxy.protocol.errors import BackendError, KeyUnavailableError
from agentproxy.protocol.fields import Claims, KeyFacts
from agentproxy.protocol.gpgerror import GpgError
from agentproxy.protocol.journal import JournalOperation
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.signatures import RsaSignature, Signature
from agentproxy.protocol.values import frozen
from relay.door import Visitor
from relay.draft import Draft
from relay.fallbackmode import FallbackMode
from relay.journal import Journal
from relay.journalchain import JournalUnavailableError
from relay.localagent import LocalAgent
from relay.requestlog import Outcome, RequestEntry, RequestLog
from relay.session import HashRefused, Session, SessionKey, SignNeeded
from relay.signing import Deliver, NotSignedError, refusal_entry
from relay.signrequests import new_request_id
from relay.verify import Verdict, Verifier

__all__ = ["LocalSigning", "Parts"]

# gpg-agent serves its connections one after another while it computes; more would only wait inside it, each against
# its own deadline.
MOST_AT_ONCE = 4


@frozen
class Parts:
    """What all local signatures of a relay share."""

    agent: LocalAgent
    journal: Journal
    pen: trio.Lock  # whoever holds it may use the journal
    turns: trio.CapacityLimiter
    log: RequestLog
    recorded: Callable[[], None]  # called behind each record: somebody may deliver it
    deadline_seconds: float
    verifier: Verifier


@frozen
class _Asked:
    """One request, and since when there is no answer."""

    need: SignNeeded
    visitor: Visitor
    claims: Claims | None
    id: str = field(default_factory=new_request_id)
    started: float = field(default_factory=time.perf_counter)


@frozen
class LocalSigning:
    """What one connection of gpg gets that began while fallback was active.

    Attributes:
        mode, reason: why it was, for the records.
        objection: why it may not sign any more; empty when it may.
    """

    parts: Parts
    keys: dict[Keygrip, KeyFacts]
    mode: FallbackMode
    reason: str
    objection: Callable[[], str]

    @property
    def log(self) -> RequestLog:
        """Where each request's end is noted."""
        return self.parts.log

    def new_session(self) -> Session:
        """A conversation that sees these keys and no others, so gpg chooses among them."""
        listed = self.keys.values()
        return Session(
            [SessionKey(key.keygrip, key.public_key, frozenset(key.hash_algorithms), key.name) for key in listed]
        )

    async def sign(self, need: SignNeeded, visitor: Visitor, claims: Claims | None, deliver: Deliver) -> None:
        """Get a signature that the public key confirms and the journal holds.

        Args:
            deliver: called with it.

        Raises:
            NotSignedError: with the words for gpg and the reason for the log, which has it already.
        """
        asked = _Asked(need, visitor, claims)
        try:
            with trio.fail_after(self.parts.deadline_seconds):
                async with self.parts.turns:
                    signature = await self._signed(asked)
        except trio.TooSlowError:
            late = NotSignedError(GpgError.TIMEOUT, Outcome.FAILED, "timeout", "the deadline passed")
            self._note(asked, late)
            raise late from None
        except NotSignedError as error:
            self._note(asked, error)
            raise
        except trio.Cancelled:
            gone = NotSignedError(GpgError.CANCELED, Outcome.ABANDONED, "caller_gone", "gpg ended, or the relay stops")
            self._note(asked, gone)
            raise
        deliver(signature)
        self._note(asked, None)

    async def _signed(self, asked: _Asked) -> Signature:
        need, visitor = asked.need, asked.visitor
        key = self.keys[need.keygrip]
        if objection := self.objection():
            raise NotSignedError(GpgError.FORBIDDEN, Outcome.REFUSED, "fallback_over", objection)
        await self._write(self.parts.journal.check)  # without room for its record no signature is made
        try:
            signature = await self.parts.agent.sign(need.keygrip, need.digest)
        except KeyUnavailableError as error:
            raise _failed(GpgError.UNUSABLE_SECKEY, "key_unavailable", str(error)) from error
        except BackendError as error:
            raise _failed(GpgError.NO_AGENT, "local_agent", str(error)) from error
        if self.parts.verifier.verify(key.public_key, need.digest, signature) is Verdict.BAD:
            reason = "the local agent's signature is not the key's own; gpg did not get it"
            raise _failed(GpgError.BAD_SIGNATURE, "bad_signature", reason)
        draft = Draft(
            JournalOperation.SIGN,
            asked.id,
            mode=self.mode.value,
            reason=self.reason,
            fingerprint=key.fingerprint,
            keygrip=need.keygrip,
            digest=need.digest,
            signature_sha256=_sha256_of(signature),
            socket=visitor.door.name,
            distribution=visitor.door.distribution,
            claims=asked.claims,
        )
        await self._write(lambda: self.parts.journal.append(draft))
        self.parts.recorded()
        return signature

    async def _write(self, work: Callable[[], object]) -> None:
        try:
            async with self.parts.pen:
                await trio.to_thread.run_sync(work)
        except JournalUnavailableError as error:
            raise _failed(GpgError.NOT_OPERATIONAL, "journal", str(error)) from error

    def _note(self, asked: _Asked, error: NotSignedError | None) -> None:
        need, visitor = asked.need, asked.visitor
        self.parts.log.add(
            RequestEntry(
                time=datetime.now(UTC),
                id=asked.id,
                outcome=error.outcome if error else Outcome.SIGNED,
                code=error.code if error else "",
                reason=str(error) if error else "",
                gpg_says=error.gpg_error.text if error else "",
                duration_ms=round((time.perf_counter() - asked.started) * 1000),
                key=self.keys[need.keygrip].name,
                keygrip=str(need.keygrip),
                hash_algorithm=need.digest.algorithm.name.lower(),
                uid=visitor.peer.uid,
                pid=visitor.peer.pid,
                socket=visitor.door.name,
                fallback=self.mode.value,
                claims=asked.claims,
            )
        )

    def expect(self) -> None:
        """Nothing: the host's own agent takes its time."""

    def refused_here(
        self, visitor: Visitor, reason: str, about: HashRefused | None = None, claims: Claims | None = None
    ) -> None:
        """Note that the relay itself refused a command, and why: gpg's user sees only a code's words."""
        self.parts.log.add(refusal_entry(visitor, reason, about, claims, fallback=self.mode.value))


def _failed(gpg_error: GpgError, code: str, reason: str) -> NotSignedError:
    return NotSignedError(gpg_error, Outcome.FAILED, code, reason)


def _sha256_of(signature: Signature) -> bytes:
    """Over the numbers, as the signer's records have it: `s` of RSA; else `r`, then `s`."""
    numbers = signature.s if isinstance(signature, RsaSignature) else signature.r + signature.s
    return hashlib.sha256(numbers).digest()
