"""Signatures: what the keys file allows is signed, checked with the public key, and described for its record.

For `sign` the digest comes from outside. For `seal` only the state of a hash does: the signer appends the trailer of an
OpenPGP signature over a document, so type, time and issuer are its own, whoever asks.
"""

import functools
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import (
    BackendError,
    BlindOracleError,
    KeyUnavailableError,
    RefusedError,
    RemoteProtocolError,
)
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.openpgp import DocumentSignature, algorithm_of, trailer
from agentproxy.protocol.seal_messages import SealState, StateSealed
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.signer_answers import DigestSigned, NotDone
from agentproxy.protocol.signer_messages import FromSigner
from agentproxy.protocol.signer_requests import Outcome, SignDigest
from agentproxy.protocol.times import format_time
from agentproxy.protocol.timings import Timings
from agentproxy.protocol.values import frozen
from agentproxy.signer.keyring import Keyring
from agentproxy.signer.log import LogUnavailableError
from agentproxy.signer.pipeline import Draft, Pipeline
from agentproxy.signer.record import Entry, signature_sha256
from agentproxy.signer.verify import check

__all__ = ["Signing"]

logger = logging.getLogger(__name__)


class WrongSignatureError(BackendError):
    """The backend made a signature that the public key does not confirm."""


@frozen
class _Wanted:
    """What is asked for, once it is known what exactly would be signed."""

    request: SignDigest | SealState
    facts: KeyFacts | None
    digest: Digest | None = None  # None: refused before the hash was finished
    created: datetime | None = None  # of a seal

    @property
    def details(self) -> dict[str, str]:
        if not isinstance(self.request, SealState):
            return {}
        told = {"type": "0x00", "content_length": str(self.request.state.length)}
        return told if self.created is None else {**told, "created": format_time(self.created)}


@dataclass(slots=True)
class Signing:
    """Makes signatures, in worker threads.

    Attributes:
        signatures: released since the start.
        times: of making and checking one.
    """

    pipeline: Pipeline
    signatures: int = 0
    times: Timings = field(default_factory=Timings)
    _took_ns: dict[Keygrip, tuple[int, int]] = field(default_factory=dict)  # the last two signatures, with checks

    def likely_ns(self, keygrip: Keygrip) -> int | None:
        """How long a signature with this key blocks; None before the first.

        By the quicker one of the last two: a busy host interrupts one now and then, and a slow device is always slow.
        """
        took_ns = self._took_ns.get(keygrip)
        return None if took_ns is None else min(took_ns)

    def draft(self, request: SignDigest | SealState, keyring: Keyring, arrived: int) -> Draft:
        """Sign, or say why not.

        Args:
            request: whatever the oracle asks.
            keyring: what may be signed with.
            arrived: when the request did, in nanoseconds of `time.perf_counter_ns`.

        Raises:
            LogUnavailableError: its record could not be written.
        """
        wanted = _Wanted(request, keyring.facts.get(request.keygrip))
        try:
            facts, digest, created = _allowed(request, wanted.facts, datetime.now(UTC))
            wanted = _Wanted(request, facts, digest, created)
            signature = self._signature(keyring, facts, digest)
        except RefusedError as error:
            return _not_signed(wanted, Outcome.REFUSED, error)
        except LogUnavailableError:
            raise
        except BackendError as error:
            return _not_signed(wanted, Outcome.FAILED, error)
        duration_us = (time.perf_counter_ns() - arrived) // 1000
        entry = _entry(wanted, Outcome.SIGNED, made=(signature_sha256(signature), duration_us))
        if created is None:
            return Draft(functools.partial(self._signed, request.id, signature), entry)
        seal = DocumentSignature(facts.fingerprint, created, digest, signature)
        return Draft(functools.partial(self._sealed, request.id, seal), entry)

    def _signature(self, keyring: Keyring, facts: KeyFacts, digest: Digest) -> Signature:
        """Make a signature and check it; it must not leave before its record is on disk.

        Raises:
            BackendError: the backend made none, or a wrong one.
            LogUnavailableError: its record could not be written.
        """
        self.pipeline.check_log()
        began = time.perf_counter_ns()
        signature = keyring.backend.sign(facts.keygrip, digest)
        try:
            check(facts.public_key, digest, signature)
        except BackendError as error:
            logger.error("a signature was wrong and stays here, key=%s: %s", facts.name, error)  # noqa: TRY400  no bug
            raise WrongSignatureError(str(error)) from error
        # Measured, so that no device is ever taken for quick twice.
        took_ns = time.perf_counter_ns() - began
        self._took_ns[facts.keygrip] = took_ns, self._took_ns.get(facts.keygrip, (took_ns, 0))[0]
        self.times.observe(took_ns / 1e9)
        return signature

    def _signed(self, id_: int, signature: Signature, head: Head | None) -> FromSigner:
        if head is None:
            return _unrecorded(id_)
        self.signatures += 1
        return DigestSigned(id_, signature, head)

    def _sealed(self, id_: int, seal: DocumentSignature, head: Head | None) -> FromSigner:
        if head is None:
            return _unrecorded(id_)
        self.signatures += 1
        return StateSealed(id_, seal, head)


def _unrecorded(id_: int) -> NotDone:
    """Cannot be: the log leaves out refusals and failures only."""
    return NotDone(id_, FailureCode.INTERNAL, "the signature has no record", retryable=False)


def _allowed(
    request: SignDigest | SealState, facts: KeyFacts | None, now: datetime
) -> tuple[KeyFacts, Digest, datetime | None]:
    """The key, if the keys file lets it sign this; what it signs; and the time that stands in it, of a seal.

    Raises:
        RefusedError: no key was touched.
    """
    if facts is None:
        raise RefusedError("key_unknown", "no key of the keys file has this keygrip")
    if facts.seal_only and isinstance(request, SignDigest):
        raise RefusedError("forbidden", "the keys file allows this key to seal only, not to sign digests")
    algorithm = request.digest.algorithm if isinstance(request, SignDigest) else request.state.algorithm
    if algorithm not in facts.hash_algorithms:
        raise RefusedError("hash_forbidden", f"the keys file does not allow {algorithm.name} here")
    if facts.expires is not None and facts.expires <= now:
        raise RefusedError("key_expired", f"the key expired on {facts.expires:%Y-%m-%d}")
    if isinstance(request, SignDigest):
        return facts, request.digest, None
    return facts, *_finished(request, facts, now.replace(microsecond=0))


def _finished(request: SealState, facts: KeyFacts, now: datetime) -> tuple[Digest, datetime]:
    """The digest of an OpenPGP signature over the document, made now."""
    if now < facts.created:
        reason = f"the clock is wrong: the key begins on {facts.created:%Y-%m-%d}, and no signature of it can be older"
        raise RefusedError("key_not_yet", reason)
    try:
        algorithm = algorithm_of(facts.public_key, facts.fingerprint)
        end = trailer(algorithm, request.state.algorithm, facts.fingerprint, now)
    except RemoteProtocolError as error:
        raise RefusedError("forbidden", f"this key cannot seal: {error}") from error
    return request.state.finished(end), now


def _entry(
    wanted: _Wanted,
    outcome: Outcome,
    reason: str = "",
    made: tuple[bytes | None, int | None] = (None, None),  # signature_sha256 and duration_us
) -> Entry:
    request, facts = wanted.request, wanted.facts
    return Entry(
        "sign" if isinstance(request, SignDigest) else "seal",
        outcome,
        request.asserted,
        reason=reason,
        request=request.request,
        key=None if facts is None else facts.name,
        fingerprint=None if facts is None else facts.fingerprint,
        keygrip=request.keygrip,
        digest=request.digest if isinstance(request, SignDigest) else wanted.digest,
        signature_sha256=made[0],
        duration_us=made[1],
        details=wanted.details,
    )


def _not_signed(wanted: _Wanted, outcome: Outcome, error: BlindOracleError) -> Draft:
    reason = str(error)[:1024]
    retryable = isinstance(error, BackendError) and not isinstance(error, KeyUnavailableError)
    code = FailureCode.BACKEND if retryable else FailureCode.KEY_UNAVAILABLE
    if isinstance(error, WrongSignatureError):
        code = FailureCode.BAD_SIGNATURE
    reply = NotDone(wanted.request.id, code, reason, retryable)
    return Draft(lambda _: reply, _entry(wanted, outcome, reason), durable=False)
