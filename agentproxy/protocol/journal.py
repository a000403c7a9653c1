"""What a relay writes down about signatures that it made by itself, and how it reports that to an oracle.

A journal is a file of lines, one record each, chained by their hashes as the audit log's are. A record has one form as
a line, so the oracle, which gets its fields, knows the line's hash, too.
"""

import enum
import hashlib
import re
from datetime import datetime
from typing import ClassVar

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Claims, Head, check_name, check_request_id, check_text
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.values import frozen
from agentproxy.protocol.wire import MessageCodec

__all__ = [
    "FIRST_PREV",
    "MAX_RECORD",
    "MAX_REPORT_BYTES",
    "MAX_REPORT_RECORDS",
    "JournalOperation",
    "JournalRecord",
    "Report",
    "Reported",
    "parse_line",
]

FIRST_PREV = bytes(32)  # `prev` of a journal's first record
MAX_RECORD = 24_576  # bytes of a line: two of them, and what the oracle adds to each, fit into a frame
# A report fits into a frame; so many records are a few milliseconds of the signer's time.
MAX_REPORT_BYTES = 49_152
MAX_REPORT_RECORDS = 32
_JOURNAL = re.compile(r"[0-9a-f]{32}")


class JournalOperation(enum.StrEnum):
    """What a record tells."""

    SIGN = "sign"
    SWITCH = "switch"  # an operator switched fallback; `mode` is what to
    RECOVERED = "recovered"  # a crash had torn the journal's end; `reason` names what was put aside


@frozen
class JournalRecord:
    """One record of a relay's journal."""

    tag: ClassVar[str] = "journal_record"
    journal: str  # 32 lower-case hex digits, random: names the file for ever
    sequence: int  # from 1, without gaps
    time: datetime  # the runner's clock
    operation: JournalOperation
    request: str  # the relay's id of what this is about; the same in a repeated report
    prev: bytes  # 32 bytes: SHA-256 of the line before, or FIRST_PREV
    mode: str = ""  # forced or auto: why fallback was active
    reason: str = ""  # what the operator gave as the reason
    fingerprint: Fingerprint | None = None  # of the key that signed
    keygrip: Keygrip | None = None
    digest: Digest | None = None
    signature_sha256: bytes | None = None  # 32 bytes, over the signature's numbers as in the audit log
    socket: str = ""  # the name of the relay's socket that gpg came by
    distribution: str | None = None
    claims: Claims | None = None

    def __post_init__(self) -> None:
        if _JOURNAL.fullmatch(self.journal) is None:
            raise RemoteProtocolError("journal: expected 32 lower-case hex digits")
        if not 1 <= self.sequence < 1 << 62 or len(self.prev) != 32:
            raise RemoteProtocolError("journal: expected a sequence from 1 and a hash of 32 bytes")
        check_request_id(self.request)
        check_text(self.mode, "mode", 16)
        check_text(self.reason, "reason")
        check_text(self.socket, "socket", 64)
        if self.distribution is not None:
            check_name(self.distribution, "distribution")
        signed = (self.fingerprint, self.keygrip, self.digest, self.signature_sha256)
        # A signature under another name would escape all that is asked of signatures.
        if signed.count(None) != (0 if self.operation is JournalOperation.SIGN else len(signed)):
            raise RemoteProtocolError("journal: a signature has key, digest and hash, nothing else has any of them")
        if self.signature_sha256 is not None and len(self.signature_sha256) != 32:
            raise RemoteProtocolError("signature_sha256: expected 32 bytes")

    def line(self) -> bytes:
        """The record's bytes without the newline that follows them in the file."""
        return _LINES.encode(self)

    def hash(self) -> bytes:
        """SHA-256 of the line: the next record's `prev`."""
        return hashlib.sha256(self.line()).digest()


_LINES: MessageCodec[JournalRecord] = MessageCodec(JournalRecord)


def parse_line(untrusted: bytes) -> JournalRecord:
    """Read a line without its newline.

    Raises:
        RemoteProtocolError: it is not, byte for byte, what `line` writes.
    """
    if len(untrusted) > MAX_RECORD:
        raise RemoteProtocolError(f"a record has at most {MAX_RECORD} bytes")
    record = _LINES.decode(untrusted)
    if record.line() != untrusted:
        raise RemoteProtocolError("not a record: it is not in the canonical form")
    return record


@frozen
class Report:
    """Records of one journal, in order; answered by `reported`, `refused` (later) or `failed`."""

    tag: ClassVar[str] = "report"
    id: str
    records: tuple[JournalRecord, ...]

    def __post_init__(self) -> None:
        check_request_id(self.id)
        if not 1 <= len(self.records) <= MAX_REPORT_RECORDS:
            raise RemoteProtocolError(f"records: expected 1 to {MAX_REPORT_RECORDS}")
        first = self.records[0]
        for place, record in enumerate(self.records):
            if record.journal != first.journal or record.sequence != first.sequence + place:
                raise RemoteProtocolError("records: expected one journal's, in order and without gaps")
            # What came in raw UTF-8 is longer as we write it, and each must fit into a frame to the signer.
            if len(record.line()) > MAX_RECORD:
                raise RemoteProtocolError(f"records: expected at most {MAX_RECORD} bytes each as a line")


@frozen
class Reported:
    """All records of a report stand in the audit log, and the disk has them."""

    tag: ClassVar[str] = "reported"
    id: str
    head: Head

    def __post_init__(self) -> None:
        check_request_id(self.id)
