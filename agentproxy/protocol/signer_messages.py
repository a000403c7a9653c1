"""Messages between the oracle (or the operator's command line) and the signer: the whole table of what it can be asked.

Ids are integers of the asking side, one per request on a connection.
"""

import enum
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Self

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fieldpatterns import (
    ASSERTED,
    DIGEST,
    HEAD,
    KEYGRIP,
    NUMBER,
    SIGNATURE,
    TEXT,
    asserted_of,
    digest_of,
    head_of,
    signature_of,
)
from agentproxy.protocol.fields import Asserted, Head, KeyFacts, check_name, check_request_id, check_text
from agentproxy.protocol.fieldtexts import asserted_text, digest_text, head_text, signature_text
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.messages import FailureCode
from agentproxy.protocol.seal_messages import SealState, StateSealed
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.timings import TimingsReport
from agentproxy.protocol.wire import MessageCodec

__all__ = [
    "CREDENTIAL_OPERATIONS",
    "FROM_SIGNER",
    "TO_SIGNER",
    "CertificateKind",
    "CheckpointTaken",
    "CompareHead",
    "CredentialRecord",
    "CredentialRecords",
    "DigestSigned",
    "FromSigner",
    "HeadCompared",
    "Issue",
    "Issued",
    "Keys",
    "ListCredentialRecords",
    "ListKeys",
    "NotDone",
    "Outcome",
    "Record",
    "Recorded",
    "SealState",
    "SignDigest",
    "StateSealed",
    "Status",
    "StatusReport",
    "TakeCheckpoint",
    "ToSigner",
]

# Records of these operations, with outcome `done`, are what the registry of credentials is made from: it is written
# after them, and an oracle whose registry is older than the log reads them again.
CREDENTIAL_OPERATIONS = frozenset(
    {
        "runner_added",
        "runner_disabled",
        "runner_enabled",
        "runner_removed",
        "credentials_issued",
        "enrolled",
        "renewed",
        "token_issued",
        "token_revoked",
        "certificate_revoked",
    }
)


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


@dataclass(frozen=True, slots=True)
class ListKeys:
    """Which keys are served; answered by `keys`."""

    tag: ClassVar[str] = "list_keys"
    id: int


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
        if self.signature_sha256 is not None and len(self.signature_sha256) != 32:
            raise RemoteProtocolError("signature_sha256: expected 32 bytes")
        if len(self.details) > 32:
            raise RemoteProtocolError("details: at most 32")
        for name, value in self.details.items():
            check_name(name, "details")
            check_text(value, "details")


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class CompareHead:
    """Does this head, which a relay kept, lie in the log; answered by `head_compared`."""

    tag: ClassVar[str] = "compare_head"
    id: int
    head: Head


@dataclass(frozen=True, slots=True)
class TakeCheckpoint:
    """Sign the end of the audit log now; answered by `checkpoint_taken` or `not_done`."""

    tag: ClassVar[str] = "take_checkpoint"
    id: int


@dataclass(frozen=True, slots=True)
class Status:
    """How is the signer; answered by `status_report`."""

    tag: ClassVar[str] = "status"
    id: int


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that are served."""

    tag: ClassVar[str] = "keys"
    id: int
    node: str
    keys: tuple[KeyFacts, ...]
    head: Head | None = None


@dataclass(frozen=True, slots=True)
class DigestSigned:
    """A signature whose record is on disk."""

    tag: ClassVar[str] = "digest_signed"
    pattern: ClassVar[str] = rf'"id":{NUMBER},"signature":{SIGNATURE},"head":{HEAD}'
    id: int
    signature: Signature
    head: Head  # the record's own sequence and hash

    def members(self) -> str:
        """The fields as JSON, for `MessageCodec`."""
        return f'"id":{self.id},"signature":{signature_text(self.signature)},"head":{head_text(self.head)}'

    @classmethod
    def of_match(cls, found: re.Match[str]) -> Self:
        """Read what `members` writes, for `MessageCodec`."""
        id_, algorithm, r, s, node, sequence, value = found.groups()
        return cls(int(id_), signature_of(algorithm, r, s), head_of(node, sequence, value))


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record is written (and on disk, when `durable` was asked)."""

    tag: ClassVar[str] = "recorded"
    id: int
    head: Head


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, PEM; the signer keeps no copy of the key."""

    tag: ClassVar[str] = "issued"
    id: int
    certificate: str
    private_key: str = field(repr=False)
    authority: str  # the CA's certificate, PEM
    public_key_sha256: bytes  # of the SubjectPublicKeyInfo: what revocation names
    expires: datetime


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """One record of CREDENTIAL_OPERATIONS, as far as a replay needs it."""

    sequence: int
    time: datetime
    operation: str
    details: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.operation, "operation")


@dataclass(frozen=True, slots=True)
class HeadCompared:
    """Whether the log holds a head."""

    tag: ClassVar[str] = "head_compared"
    id: int
    fits: bool
    reason: str  # why not; empty when it fits


@dataclass(frozen=True, slots=True)
class CredentialRecords:
    """A part of the records that were asked for; when `through` is below `last`, ask again after `through`."""

    tag: ClassVar[str] = "credential_records"
    id: int
    node: str  # whose log it is
    records: tuple[CredentialRecord, ...]
    through: int  # the log was looked at up to this record
    last: int  # the last record on disk; 0: the log is empty

    def __post_init__(self) -> None:
        check_name(self.node, "node")
        if not 0 <= self.through <= self.last:
            raise RemoteProtocolError("through: expected a record's sequence up to the last")


@dataclass(frozen=True, slots=True)
class CheckpointTaken:
    """The end of the audit log, signed with the log's key; it is in the log's file of checkpoints too."""

    tag: ClassVar[str] = "checkpoint_taken"
    id: int
    head: Head
    time: datetime
    key: bytes  # 32 bytes: SHA-256 of the public key's 32 octets
    signature: bytes  # 64 bytes: Ed25519

    def __post_init__(self) -> None:
        if len(self.key) != 32 or len(self.signature) != 64:
            raise RemoteProtocolError("checkpoint: expected a key's id of 32 bytes and a signature of 64")


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What a health check wants to know of the signer."""

    tag: ClassVar[str] = "status_report"
    id: int
    operational: bool
    reason: str  # why not; empty when operational
    keys: int
    signatures: int  # since its start
    head: Head | None = None
    sign_times: TimingsReport | None = None  # of making and checking a signature
    audit_times: TimingsReport | None = None  # of writing a batch of records
    audit_bytes: int = 0  # of the log's directory
    last_checkpoint: datetime | None = None


@dataclass(frozen=True, slots=True)
class NotDone:
    """The request had no effect except its record."""

    tag: ClassVar[str] = "not_done"
    id: int
    code: FailureCode
    reason: str  # for the oracle's log
    retryable: bool


ToSigner = (
    ListKeys | SignDigest | SealState | Record | Issue | ListCredentialRecords | CompareHead | TakeCheckpoint | Status
)
FromSigner = (
    Keys
    | DigestSigned
    | StateSealed
    | Recorded
    | Issued
    | CredentialRecords
    | HeadCompared
    | CheckpointTaken
    | StatusReport
    | NotDone
)

TO_SIGNER: MessageCodec[ToSigner] = MessageCodec(
    ListKeys, SignDigest, SealState, Record, Issue, ListCredentialRecords, CompareHead, TakeCheckpoint, Status
)
FROM_SIGNER: MessageCodec[FromSigner] = MessageCodec(
    Keys,
    DigestSigned,
    StateSealed,
    Recorded,
    Issued,
    CredentialRecords,
    HeadCompared,
    CheckpointTaken,
    StatusReport,
    NotDone,
)
