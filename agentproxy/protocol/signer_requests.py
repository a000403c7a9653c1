"""What the oracle, or the operator's command line, asks of the signer: with `seal_state`, all that it can be asked.

Ids are integers of the asking side, one per request on a connection.
"""

import enum
import re
from dataclasses import field
from typing import ClassVar, Self

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fieldpatterns import ASSERTED, DIGEST, KEYGRIP, NUMBER, TEXT, asserted_of, digest_of
from agentproxy.protocol.fields import Asserted, Head, check_name, check_request_id, check_text, size_of_texts
from agentproxy.protocol.fieldtexts import asserted_text, digest_text
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.values import frozen

__all__ = [
    "SIGNERS_OWN",
    "CertificateKind",
    "CompareHead",
    "Issue",
    "ListCredentialRecords",
    "ListKeys",
    "Outcome",
    "Record",
    "SignDigest",
    "Status",
    "TakeCheckpoint",
]


# What the signer does or notices itself. Whoever could write that of it could make a recovery out of nothing, after
# which a log looks damaged that is whole.
SIGNERS_OWN = frozenset({"signer_started", "signer_stopped", "keys_reloaded", "recovered", "records_left_out", "issue"})

# Bytes of a record's details in our JSON: half a frame, so that a record of credentials fits into the answer that tells
# of it later. Raw UTF-8 in a request is longer as we write it.
_MAX_DETAILS = 32_768


class Outcome(enum.StrEnum):
    """How a recorded operation ended."""

    SIGNED = "signed"
    REFUSED = "refused"
    FAILED = "failed"
    DONE = "done"  # administrative operations


class CertificateKind(enum.StrEnum):
    """What a certificate of the built-in CA is for; it decides the extended key usage."""

    CLIENT = "client"
    SERVER = "server"


@frozen
class ListKeys:
    """Which keys are served; answered by `keys`."""

    tag: ClassVar[str] = "list_keys"
    id: int


@frozen
class SignDigest:
    """Sign, record, release; answered by `digest_signed` or `not_done`."""

    tag: ClassVar[str] = "sign_digest"
    pattern: ClassVar[str] = (
        rf'"id":{NUMBER},"request":{TEXT},"keygrip":{KEYGRIP},"digest":{DIGEST},"asserted":{ASSERTED}'
    )
    id: int
    request: str  # the relay's request id
    keygrip: Keygrip
    digest: Digest
    asserted: Asserted

    def __post_init__(self) -> None:
        check_request_id(self.request)

    def members(self) -> str:
        """The fields as JSON, for `MessageCodec`."""
        return (
            f'"id":{self.id},"request":"{self.request}","keygrip":"{self.keygrip}",'
            f'"digest":{digest_text(self.digest)},"asserted":{asserted_text(self.asserted)}'
        )

    @classmethod
    def of_match(cls, found: re.Match[str]) -> Self:
        """Read what `members` writes, for `MessageCodec`."""
        id_, request, keygrip, algorithm, value, *asserted = found.groups()
        return cls(
            int(id_),
            request,
            Keygrip(bytes.fromhex(keygrip)),
            digest_of(algorithm, value),
            asserted_of(asserted),
        )


@frozen
class Record:
    """Write a record of something that was not a signature; answered by `recorded` or `not_done`."""

    tag: ClassVar[str] = "record"
    id: int
    operation: str  # sign, seal, hello, runner_added, token_revoked, …
    outcome: Outcome
    reason: str
    asserted: Asserted
    request: str | None = None
    keygrip: Keygrip | None = None
    digest: Digest | None = None
    details: dict[str, str] = field(default_factory=dict)
    durable: bool = True  # False: answered before the disk has it (refusals)
    signature_sha256: bytes | None = None  # 32 bytes: of a signature that somebody else made

    def __post_init__(self) -> None:
        check_name(self.operation, "operation")
        check_text(self.reason, "reason")
        if self.outcome is Outcome.SIGNED:
            raise RemoteProtocolError("only the signer writes that something was signed")
        if self.operation in SIGNERS_OWN:
            raise RemoteProtocolError(f"only the signer writes {self.operation}")
        if self.signature_sha256 is not None and len(self.signature_sha256) != 32:
            raise RemoteProtocolError("signature_sha256: expected 32 bytes")
        if len(self.details) > 32:
            raise RemoteProtocolError("details: at most 32")
        for name, value in self.details.items():
            check_name(name, "details")
            check_text(value, "details")
        if size_of_texts([*self.details, *self.details.values()]) > _MAX_DETAILS:
            raise RemoteProtocolError(f"details: expected at most {_MAX_DETAILS} bytes in ASCII, with escapes")


@frozen
class Issue:
    """Issue a certificate with a fresh key; answered by `issued` or `not_done`."""

    tag: ClassVar[str] = "issue"
    id: int
    kind: CertificateKind
    common_name: str  # the runner's or the node's name
    hosts: tuple[str, ...]  # DNS names and IP addresses of a server; empty for a client
    days: int
    asserted: Asserted

    def __post_init__(self) -> None:
        check_name(self.common_name, "common_name")
        for host in self.hosts:
            check_text(host, "hosts", 253)
        if not 1 <= self.days <= 3660:
            raise RemoteProtocolError("days: expected 1 to 3660")


@frozen
class ListCredentialRecords:
    """What the audit log says about credentials behind a record; answered by `credential_records` or `not_done`.

    So the oracle replays what its registry has missed, and needs no access to the log's directory.
    """

    tag: ClassVar[str] = "list_credential_records"
    id: int
    after: int  # a record's sequence; 0: from the first on

    def __post_init__(self) -> None:
        if not 0 <= self.after < 1 << 62:
            raise RemoteProtocolError("after: expected a record's sequence, or 0")


@frozen
class CompareHead:
    """Does this head, which a relay kept, lie in the log; answered by `head_compared`."""

    tag: ClassVar[str] = "compare_head"
    id: int
    head: Head


@frozen
class TakeCheckpoint:
    """Sign the end of the audit log now; answered by `checkpoint_taken` or `not_done`."""

    tag: ClassVar[str] = "take_checkpoint"
    id: int


@frozen
class Status:
    """How is the signer; answered by `status_report`."""

    tag: ClassVar[str] = "status"
    id: int
