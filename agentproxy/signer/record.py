"""One record of the audit log, and the exact line of bytes it becomes; docs/PROTOCOL.md shows examples.

A line is one JSON object in ASCII: every member always there, in the order of `MEMBERS`, without blanks, null where
a member does not apply. So a record has one form, and a line that parses and is written again gives the same bytes.
"""

import hashlib
import json
from dataclasses import field
from datetime import datetime
from typing import Self

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted, check_name, check_request_id, check_text
from agentproxy.protocol.fieldtexts import claims_text, quoted, texts_text
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.signatures import RsaSignature, Signature
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.protocol.structure import structured
from agentproxy.protocol.times import format_time, parse_time
from agentproxy.protocol.values import frozen

__all__ = ["FIRST_PREV", "MAX_LINE", "MEMBERS", "AuditRecord", "Entry", "hash_of_line", "signature_sha256"]

FIRST_PREV = bytes(32)  # `prev` of a log's first record
MAX_LINE = 1 << 19  # bytes: a frame of 64 KiB in which every character needs six, with room

MEMBERS = (
    "sequence", "time", "node", "request", "operation", "key", "fingerprint", "keygrip", "hash_algorithm", "digest",
    "outcome", "reason", "signature_sha256", "duration_us", "asserted", "details", "prev",
)  # fmt: skip


def hash_of_line(line: bytes) -> bytes:
    """SHA-256 of a record's line without its newline: the next record's `prev`."""
    return hashlib.sha256(line).digest()


def signature_sha256(signature: Signature) -> bytes:
    """SHA-256 over a signature's numbers: `s` of RSA; else `r`, then `s`, as this project carries them."""
    if isinstance(signature, RsaSignature):
        return hashlib.sha256(signature.s).digest()
    return hashlib.sha256(signature.r + signature.s).digest()


@frozen
class Entry:
    """What happened: a record that has no place in the log yet."""

    operation: str  # sign, seal, issue, record types of the oracle, signer_started, recovered, …
    outcome: Outcome
    asserted: Asserted = field(default_factory=lambda: Asserted(channel="signer"))
    reason: str = ""
    request: str | None = None
    key: str | None = None
    fingerprint: Fingerprint | None = None
    keygrip: Keygrip | None = None
    digest: Digest | None = None
    signature_sha256: bytes | None = None  # 32 bytes
    duration_us: int | None = None  # from the request's arrival at the signer to the record
    details: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.operation, "operation")
        check_text(self.reason, "reason")
        if self.request is not None:
            check_request_id(self.request)
        if self.key is not None:
            check_name(self.key, "key")
        if self.signature_sha256 is not None and len(self.signature_sha256) != 32:
            raise RemoteProtocolError("signature_sha256: expected 32 bytes")


@frozen
class AuditRecord:
    """A record in its place in a log."""

    sequence: int  # from 1, without gaps
    time: datetime
    node: str
    entry: Entry
    prev: bytes  # 32 bytes: `hash_of_line` of the record before, or FIRST_PREV

    def line(self) -> bytes:
        """The record's bytes without the newline that follows them in the file.

        Written out, since every signature waits for it: the encoder of `json` takes three times as long.
        """
        entry = self.entry
        digest = entry.digest
        return (
            f'{{"sequence":{self.sequence},"time":"{format_time(self.time)}","node":"{self.node}",'
            f'"request":{_text(entry.request)},"operation":"{entry.operation}","key":{_text(entry.key)},'
            f'"fingerprint":{_name(entry.fingerprint)},"keygrip":{_name(entry.keygrip)},'
            f'"hash_algorithm":{"null" if digest is None else int(digest.algorithm)},'
            f'"digest":{_hex(None if digest is None else digest.value)},'
            f'"outcome":"{entry.outcome.value}","reason":{_text(entry.reason)},'
            f'"signature_sha256":{_hex(entry.signature_sha256)},'
            f'"duration_us":{"null" if entry.duration_us is None else entry.duration_us},'
            f'"asserted":{_asserted(entry.asserted)},"details":{texts_text(entry.details)},"prev":"{self.prev.hex()}"}}'
        ).encode("ascii")

    @classmethod
    def parse(cls, untrusted: bytes) -> Self:
        """Read a line without its newline.

        Raises:
            RemoteProtocolError: it is not, byte for byte, what `line` writes.
        """
        try:
            members = json.loads(untrusted)
            record = cls._of(members)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"not a record: {error}") from error
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise RemoteProtocolError(f"not a record: {type(error).__name__}: {error}") from error
        if record.line() != untrusted:
            raise RemoteProtocolError("not a record: it is not in the canonical form")
        return record

    @classmethod
    def _of(cls, members: dict[str, str | None]) -> Self:
        if tuple(members) != MEMBERS:
            raise RemoteProtocolError("other members, or in another order")
        node = structured(members["node"], str)
        check_name(node, "node")  # `line` writes it as it is
        plain = {name: value for name, value in members.items() if name not in _PLACE}
        algorithm, digest = plain.pop("hash_algorithm"), plain.pop("digest")
        entry = (
            structured(plain, Entry)
            if digest is None
            else structured({**plain, "digest": {"algorithm": algorithm, "value": digest}}, Entry)
        )
        return cls(
            sequence=structured(members["sequence"], int),
            time=parse_time(structured(members["time"], str)),
            node=node,
            entry=entry,
            prev=structured(members["prev"], bytes),
        )


_PLACE = frozenset({"sequence", "time", "node", "prev"})


def _text(value: str | None) -> str:
    return "null" if value is None else quoted(value)


def _hex(value: bytes | None) -> str:
    return "null" if value is None else f'"{value.hex()}"'


def _name(value: Fingerprint | Keygrip | None) -> str:
    return "null" if value is None else f'"{value}"'


def _asserted(asserted: Asserted) -> str:
    return (
        f'{{"runner":{_text(asserted.runner)},"token":{_text(asserted.token)},'
        f'"certificate":{_text(asserted.certificate)},"address":{_text(asserted.address)},'
        f'"channel":{quoted(asserted.channel)},"distribution":{_text(asserted.distribution)},'
        f'"claims":{"null" if asserted.claims is None else claims_text(asserted.claims)}}}'
    )
