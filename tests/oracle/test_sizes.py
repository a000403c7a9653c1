"""Whatever a relay may send fits into a frame to the signer with all that the oracle adds, and into the audit log."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agentproxy.oracle import fallbackrecords
from agentproxy.oracle.caller import Caller
from agentproxy.oracle.refusals import Refusals
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RefusedError, RemoteProtocolError
from agentproxy.protocol.fields import MAX_CLAIM, MAX_CLAIMS, MAX_REMAINING_MS, Asserted, Claims
from agentproxy.protocol.fieldtexts import claims_text
from agentproxy.protocol.frames import MAX_PAYLOAD
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.journal import MAX_RECORD, JournalOperation, JournalRecord, Report
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.messages import FROM_RELAY
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.seal_messages import Seal, SealState
from agentproxy.protocol.signer_messages import TO_SIGNER, ToSigner
from agentproxy.protocol.signer_requests import Outcome, Record, SignDigest
from agentproxy.signer.record import MAX_LINE, AuditRecord, Entry
from tests.oracle.fakesigner import FakeSource

ID, NAME = "f" * 32, "n" * 64
LAST_ID = (1 << 63) - 1
GRIP = Keygrip(b"\xff" * 20)
DIGEST = Digest(HashAlgorithm.SHA512, b"\xff" * 64)
STATE = HashState(HashAlgorithm.SHA512, b"\xff" * 64, (1 << 60) - 1, b"\xff" * 127)
LONGEST = "😀"  # 12 bytes in our JSON, 4 in a relay's
# More than any caller has: its texts are names, numbers and addresses.
ASSERTED = Asserted(*[LONGEST * 256] * 6)
CALLER = Caller("r" * 64, LONGEST * 256, LONGEST * 256, LONGEST * 256, "c" * 191)

pytestmark = pytest.mark.parametrize("character", ["x", '"', "é", "\u0378", LONGEST])


def largest(build: Callable[[int], object], most: int = MAX_CLAIM) -> int:
    """The largest number that this can be built with."""
    for number in range(most, -1, -1):
        try:
            build(number)
        except RemoteProtocolError:
            continue
        return number
    raise AssertionError("not even with nothing")


def largest_claims(character: str) -> Claims:
    def of(length: int, rest: int = 0) -> Claims:
        job = {f"{place:02}{character * max(0, length - 2)}": character * length for place in range(16)}
        numbers = (LAST_ID, LAST_ID)
        return Claims(numbers[0], character * rest, numbers[1], (character * length,) * 8, "f", "p", job, (NAME,) * 4)

    length = largest(of)
    return of(length, largest(lambda rest: of(length, rest)))


def is_fitting(message: ToSigner) -> bool:
    return len(TO_SIGNER.encode(message)) <= MAX_PAYLOAD and TO_SIGNER.decode(TO_SIGNER.encode(message)) == message


def line(entry: Entry) -> bytes:
    """As the signer writes it into the log."""
    return AuditRecord(LAST_ID, datetime.now(UTC), NAME, entry, bytes(32)).line()


def line_of(record: Record) -> bytes:
    return line(
        Entry(
            record.operation,
            record.outcome,
            record.asserted,
            record.reason,
            record.request,
            keygrip=record.keygrip,
            digest=record.digest,
            details=record.details,
        )
    )


def test_claims_are_as_large_as_they_may_be(character: str) -> None:
    assert MAX_CLAIMS - 1024 < len(claims_text(largest_claims(character))) < MAX_CLAIMS + 512


def test_a_request_fits_on_both_ways(character: str) -> None:
    claims = largest_claims(character)
    sign = Sign(ID, GRIP, DIGEST, MAX_REMAINING_MS, NAME, claims, NAME)
    seal = Seal(ID, GRIP, STATE, MAX_REMAINING_MS, NAME, claims, NAME)
    for message in (sign, seal):
        assert len(FROM_RELAY.encode(message)) <= MAX_PAYLOAD
    asserted = replace(ASSERTED, claims=claims)
    assert is_fitting(SignDigest(LAST_ID, ID, GRIP, DIGEST, asserted))
    assert is_fitting(SealState(LAST_ID, ID, GRIP, STATE, asserted))
    signed = Entry("sign", Outcome.SIGNED, asserted, "", ID, NAME, Fingerprint(bytes(32)), GRIP, DIGEST, bytes(32))
    assert len(line(replace(signed, details={"type": "0x00", "content_length": str(1 << 60)}))) <= MAX_LINE


def test_the_record_of_a_refusal_fits(character: str) -> None:
    claims, source = largest_claims(character), FakeSource()
    refusal = RefusedError("forbidden", LONGEST * 5000)
    refusals = Refusals(source, lambda: 0.0)
    refusals.record(CALLER, Sign(ID, GRIP, DIGEST, 1, NAME, claims), refusal)
    refusals.record(CALLER, Seal(ID, GRIP, STATE, 1, NAME, claims), refusal)
    refusals.record_keyless(CALLER, ID, replace(ASSERTED, claims=claims), refusal)
    assert len(source.records) == 3
    for record in source.records:
        worst = replace(record, id=LAST_ID, asserted=replace(ASSERTED, claims=claims))
        assert is_fitting(worst)
        assert len(line_of(worst)) <= MAX_LINE


def test_the_record_of_a_report_fits(character: str) -> None:
    def report(length: int) -> Report:
        claims = Claims(1, None, 1, (character * length,) * 8, job={str(n): character * length for n in range(16)})
        signed = (Fingerprint(bytes(32)), GRIP, DIGEST, bytes(32))
        place = (ID, LAST_ID >> 1, datetime.now(UTC), JournalOperation.SIGN, ID, bytes(32))
        return Report(ID, (JournalRecord(*place, LONGEST * 16, LONGEST * 512, *signed, NAME, NAME, claims),))

    (record,) = report(largest(report)).records
    assert MAX_RECORD - 24 * 12 < len(record.line()) <= MAX_RECORD
    asked = fallbackrecords._request(LAST_ID, CALLER, record, LONGEST * 2000)
    asserted = replace(ASSERTED, claims=record.claims)
    assert is_fitting(replace(asked, asserted=asserted))
    assert len(line_of(replace(asked, asserted=asserted))) <= MAX_LINE
