"""One record of the audit log, and the exact line of bytes it becomes; docs/PROTOCOL.md shows examples.

A line is one JSON object in ASCII: every member always there, in the order of `MEMBERS`, without blanks, null where
a member does not apply. So a record has one form, and a line that parses and is written again gives the same bytes.
"""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

import cattrs

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted, Claims, check_name, check_request_id, check_text
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.signatures import RsaSignature, Signature
from agentproxy.protocol.signer_messages import Outcome
from agentproxy.protocol.wire import format_time, new_converter, parse_time

__all__ = ["FIRST_PREV", "MAX_LINE", "MEMBERS", "AuditRecord", "Entry", "hash_of_line", "signature_sha256"]

FIRST_PREV = bytes(32)  # `prev` of a log's first record
MAX_LINE = 1 << 19  # bytes: a frame of 64 KiB in which every character needs six, with room

MEMBERS = (
    "sequence", "time", "node", "request", "operation", "key", "fingerprint", "keygrip", "hash_algorithm", "digest",
    "outcome", "reason", "signature_sha256", "duration_us", "asserted", "details", "prev",
)  # fmt: skip

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_CONVERTER = new_converter()


def hash_of_line(line: bytes) -> bytes:
    """SHA-256 of a record's line without its newline: the next record's `prev`."""
    return hashlib.sha256(line).digest()


def signature_sha256(signature: Signature) -> bytes:
    """SHA-256 over a signature's numbers: `s` of RSA; else `r`, then `s`, as this project carries them."""
    if isinstance(signature, RsaSignature):
        return hashlib.sha256(signature.s).digest()
    return hashlib.sha256(signature.r + signature.s).digest()


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record in its place in a log."""

    sequence: int  # from 1, without gaps
    time: datetime
    node: str
    entry: Entry
    prev: bytes  # 32 bytes: `hash_of_line` of the record before, or FIRST_PREV

    def line(self) -> bytes:
        """The record's bytes without the newline that follows them in the file."""
        return _ENCODER.encode(self._members()).encode("ascii")

    def _members(self) -> dict[str, object]:
        entry = self.entry
        return {
            "sequence": self.sequence,
            "time": format_time(self.time),
            "node": self.node,
            "request": entry.request,
            "operation": entry.operation,
            "key": entry.key,
            "fingerprint": None if entry.fingerprint is None else str(entry.fingerprint),
            "keygrip": None if entry.keygrip is None else str(entry.keygrip),
            "hash_algorithm": None if entry.digest is None else int(entry.digest.algorithm),
            "digest": None if entry.digest is None else entry.digest.value.hex(),
            "outcome": entry.outcome.value,
            "reason": entry.reason,
            "signature_sha256": None if entry.signature_sha256 is None else entry.signature_sha256.hex(),
            "duration_us": entry.duration_us,
            "asserted": _asserted_members(entry.asserted),
            "details": entry.details,
            "prev": self.prev.hex(),
        }

    @classmethod
    def parse(cls, untrusted: bytes) -> Self:
        """Read a line without its newline.

        Raises:
            RemoteProtocolError: it is not, byte for byte, what `line` writes.
        """
        try:
            members = json.loads(untrusted)
            record = cls._of(members)
        except (
            cattrs.BaseValidationError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:
            raise RemoteProtocolError(f"not a record: {type(error).__name__}: {error}") from error
        if record.line() != untrusted:
            raise RemoteProtocolError("not a record: it is not in the canonical form")
        return record

    @classmethod
    def _of(cls, members: dict[str, str | None]) -> Self:
        if tuple(members) != MEMBERS:
            raise RemoteProtocolError("not a record: other members, or in another order")
        plain = {name: value for name, value in members.items() if name not in _PLACE}
        algorithm, digest = plain.pop("hash_algorithm"), plain.pop("digest")
        entry = (
            _CONVERTER.structure(plain, Entry)
            if digest is None
            else _CONVERTER.structure({**plain, "digest": {"algorithm": algorithm, "value": digest}}, Entry)
        )
        return cls(
            sequence=_CONVERTER.structure(members["sequence"], int),
            time=parse_time(_CONVERTER.structure(members["time"], str)),
            node=_CONVERTER.structure(members["node"], str),
            entry=entry,
            prev=_CONVERTER.structure(members["prev"], bytes),
        )


_PLACE = frozenset({"sequence", "time", "node", "prev"})


def _asserted_members(asserted: Asserted) -> dict[str, object]:
    return {
        "runner": asserted.runner,
        "token": asserted.token,
        "certificate": asserted.certificate,
        "address": asserted.address,
        "channel": asserted.channel,
        "distribution": asserted.distribution,
        "claims": None if asserted.claims is None else _claims_members(asserted.claims),
    }


def _claims_members(claims: Claims) -> dict[str, object]:
    """Claims as on the wire: what the relay did not see is left out."""
    members: dict[str, object] = _CONVERTER.unstructure(claims)
    return members
