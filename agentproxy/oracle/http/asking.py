"""From the body of a request to what `SigningService` is asked, and from its answer to the caller's.

A checksum says nothing about the content that a signature could be made over. So for `sha256:…` the line itself is
signed, and the answer says so; for the state of a hash it is the content.
"""

import hashlib
import re
import secrets
from datetime import UTC

from pydantic import TypeAdapter, ValidationError

from agentproxy.oracle.http.models import BatchItem, ClaimsField, RecordReport, SignatureReport
from agentproxy.oracle.http.problems import NotAsDescribedError, wrong_fields
from agentproxy.oracle.policy import Policy
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Claims, KeyFacts, without_controls
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.seal_messages import Seal, Sealed
from agentproxy.protocol.values import frozen

__all__ = ["Asked", "item_of", "reported", "request_id", "seal_for", "the_hash"]

REMAINING_MS = 30_000  # as a relay's own limit; nginx in front waits longer
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_ID_BYTES = 16
_ITEM = TypeAdapter(BatchItem)
_MOST_ERRORS = 8  # told of one item: more than it has fields


@frozen
class Asked:
    """One signature that somebody wants, whichever body it stood in."""

    hash: str
    distribution: str | None
    key_type: str | None
    claims: ClaimsField | None
    is_package: bool = False  # whether the content is the header of an RPM

    @property
    def is_statement(self) -> bool:
        """Whether it is the line with the checksum that is signed."""
        return _CHECKSUM.fullmatch(self.hash) is not None

    @property
    def protocol_claims(self) -> Claims | None:
        """The claims as all ways in have them; what could forge lines in a log is replaced, for they allow nothing.

        Raises:
            RemoteProtocolError: more bytes than a record takes, or two names of a job that would become one.
        """
        claims = self.claims
        if claims is None:
            return None
        job = {without_controls(name): without_controls(text) for name, text in claims.job.items()}
        if len(job) != len(claims.job):
            raise RemoteProtocolError("claims.job: two names that differ in control characters only")
        file, package = (None if text is None else without_controls(text) for text in (claims.file, claims.package))
        return Claims(file=file, package=package, job=job)


def request_id(idempotency_key: str | None, index: int = 0) -> str:
    """The id under which a request and its repeats are one; without a key it is one of its own.

    Args:
        idempotency_key: what the caller sent; keys of different runners never meet.
        index: of an item in a batch.
    """
    if idempotency_key is None:
        return secrets.token_hex(_ID_BYTES)
    return hashlib.sha256(f"{index}:{idempotency_key}".encode()).digest()[:_ID_BYTES].hex()


def seal_for(asked: Asked, key: KeyFacts, policy: Policy, name: str) -> Seal:
    """The request to the signing service.

    Args:
        key: that signs.
        policy: which hash algorithms it may use.
        name: the request's id.

    Raises:
        RemoteProtocolError: a state that cannot be.
    """
    state = _statement(asked.hash, key, policy) if asked.is_statement else HashState.parse(asked.hash)
    return Seal(
        id=name,
        keygrip=key.keygrip,
        state=state,
        remaining_ms=REMAINING_MS,
        distribution=asked.distribution,
        claims=asked.protocol_claims,
    )


def _statement(line: str, key: KeyFacts, policy: Policy) -> HashState:
    rule = next((rule for rule in policy.keys.values() if rule.fingerprint == key.fingerprint), None)
    allowed = key.hash_algorithms if rule is None else rule.hash_algorithms
    # The line is shorter than a block of SHA-512, so its state costs nothing; SHA-256 is for keys that know no better.
    is_512 = HashAlgorithm.SHA512 in allowed and HashAlgorithm.SHA512 in key.hash_algorithms
    algorithm = HashAlgorithm.SHA512 if is_512 else HashAlgorithm.SHA256
    return HashState.initial(algorithm).updated(f"{line}\n".encode("ascii"))


def reported(asked: Asked, key: str, sealed: Sealed) -> SignatureReport:
    """What the caller gets."""
    made = sealed.seal
    return SignatureReport(
        signature=made.armored,
        key_id=made.key_id,
        timestamp=made.created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        fingerprint=str(made.fingerprint),
        key=key,
        signed="statement" if asked.is_statement else "content",
        record=RecordReport(sealed.head.node, sealed.head.sequence, sealed.head.hash.hex()),
    )


def item_of(untrusted: dict[str, object], index: int) -> BatchItem:
    """One item of a batch.

    Args:
        index: in the batch, for what is said of it.

    Raises:
        NotAsDescribedError: its fields are unknown or wrong.
    """
    try:
        return _ITEM.validate_python(untrusted)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:_MOST_ERRORS]
        place = ("body", "items", index)
        raise NotAsDescribedError(wrong_fields(((*place, *each["loc"]), each["msg"]) for each in found)) from error


def the_hash(package: str | None, repodata: str | None) -> str:
    """The one hash of an item.

    Raises:
        RemoteProtocolError: it has none, or two.
    """
    if (package is None) == (repodata is None):
        raise RemoteProtocolError("expected package_hash or repodata_hash")
    return package or repodata or ""
