"""What the signer answers; each answer carries its request's id."""

import re
from dataclasses import field
from datetime import datetime
from typing import ClassVar, Self

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fieldpatterns import HEAD, NUMBER, SIGNATURE, head_of, signature_of
from agentproxy.protocol.fields import Head, KeyFacts, check_name
from agentproxy.protocol.fieldtexts import head_text, signature_text
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.timings import TimingsReport
from agentproxy.protocol.values import frozen

__all__ = [
    "CREDENTIAL_OPERATIONS",
    "CheckpointTaken",
    "CredentialRecord",
    "CredentialRecords",
    "DigestSigned",
    "HeadCompared",
    "Issued",
    "Keys",
    "NotDone",
    "Recorded",
    "StatusReport",
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


@frozen
class Keys:
    """The keys that are served."""

    tag: ClassVar[str] = "keys"
    id: int
    node: str
    keys: tuple[KeyFacts, ...]
    head: Head | None = None


@frozen
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


@frozen
class Recorded:
    """A record is written (and on disk, when `durable` was asked)."""

    tag: ClassVar[str] = "recorded"
    id: int
    head: Head


@frozen
class Issued:
    """A certificate with its key, PEM; the signer keeps no copy of the key."""

    tag: ClassVar[str] = "issued"
    id: int
    certificate: str
    private_key: str = field(repr=False)
    authority: str  # the CA's certificate, PEM
    public_key_sha256: bytes  # of the SubjectPublicKeyInfo: what revocation names
    expires: datetime


@frozen
class CredentialRecord:
    """One record of CREDENTIAL_OPERATIONS, as far as a replay needs it."""

    sequence: int
    time: datetime
    operation: str
    details: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.operation, "operation")


@frozen
class HeadCompared:
    """Whether the log holds a head."""

    tag: ClassVar[str] = "head_compared"
    id: int
    fits: bool
    reason: str  # why not; empty when it fits


@frozen
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


@frozen
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


@frozen
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


@frozen
class NotDone:
    """The request had no effect except its record."""

    tag: ClassVar[str] = "not_done"
    id: int
    code: FailureCode
    reason: str  # for the oracle's log
    retryable: bool
