"""A record and its bytes."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted, Claims
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.signatures import EddsaSignature, RsaSignature
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.grammar import is_canonical
from agentproxy.signer.record import FIRST_PREV, MEMBERS, AuditRecord, Entry, hash_of_line, signature_sha256

ENTRY = Entry(
    operation="sign",
    outcome=Outcome.SIGNED,
    request="00112233445566778899aabbccddeeff",
    key="modern",
    fingerprint=Fingerprint(bytes(range(20))),
    keygrip=Keygrip(bytes(range(20, 40))),
    digest=Digest(HashAlgorithm.SHA256, bytes(range(32))),
    signature_sha256=hashlib.sha256(b"signature").digest(),
    duration_us=6123,
    asserted=Asserted(
        runner="builder-1",
        token="0123456789ab",
        certificate="ab" * 32,
        address="192.0.2.7:40112",
        distribution="el10-x86_64",
        claims=Claims(
            uid=1000,
            commands=("gpg --detach-sign", "rpmsign --addsign"),
            file="dünn.rpm",
            job={"id": "7"},
            distributions=("el10",),
        ),
    ),
)
RECORD = AuditRecord(2, datetime(2026, 11, 22, 10, 0, 0, 5, tzinfo=UTC), "node-1", ENTRY, hash_of_line(b"first"))
LINE = (
    b'{"sequence":2,"time":"2026-11-22T10:00:00.000005Z","node":"node-1","request":"00112233445566778899aabbccddeeff"'
    b',"operation":"sign","key":"modern","fingerprint":"000102030405060708090A0B0C0D0E0F10111213",'
    b'"keygrip":"1415161718191A1B1C1D1E1F2021222324252627","hash_algorithm":8,'
    b'"digest":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","outcome":"signed","reason":"",'
    b'"signature_sha256":"' + hashlib.sha256(b"signature").hexdigest().encode() + b'","duration_us":6123,'
    b'"asserted":{"runner":"builder-1","token":"0123456789ab","certificate":"' + b"ab" * 32 + b'",'
    b'"address":"192.0.2.7:40112","channel":"relay","distribution":"el10-x86_64",'
    b'"claims":{"uid":1000,"commands":["gpg --detach-sign","rpmsign --addsign"],"file":"d\\u00fcnn.rpm",'
    b'"job":{"id":"7"},"distributions":["el10"]}},"details":{},"prev":"'
    + hashlib.sha256(b"first").hexdigest().encode()
    + b'"}'
)


def test_a_record_has_exactly_these_bytes() -> None:
    assert RECORD.line() == LINE


def test_every_member_is_always_there() -> None:
    bare = AuditRecord(1, RECORD.time, "n", Entry("signer_started", Outcome.DONE), FIRST_PREV)
    members = json.loads(bare.line())
    assert tuple(members) == MEMBERS
    assert members["prev"] == "0" * 64
    assert members["asserted"] == {
        "runner": None, "token": None, "certificate": None, "address": None, "channel": "signer",
        "distribution": None, "claims": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        AuditRecord(1, RECORD.time, "n", Entry("recovered", Outcome.DONE, details={"file": "x"}), FIRST_PREV),
        replace(RECORD, entry=replace(ENTRY, outcome=Outcome.REFUSED, reason="no", asserted=Asserted(runner="b"))),
    ],
)
def test_a_line_reads_back_as_its_record(record: AuditRecord) -> None:
    assert AuditRecord.parse(record.line()) == record
    assert is_canonical(record.line())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        LINE + b" ",
        LINE.replace(b":2,", b": 2,", 1),
        LINE.replace(b'"sequence":2', b'"sequence":"2"'),
        LINE.replace(b'"sequence":2', b'"sequence":1,"sequence":2'),
        LINE.replace(b'"outcome":"signed"', b'"outcome":"sgned"'),
        LINE.replace(b'"outcome":"signed"', b'"outcome":NaN'),
        LINE.replace(b"\\u00fc", "ü".encode()),
        LINE.replace(b'"details":{}', b'"details":[]'),
        LINE.replace(b'"details":{},', b""),
        LINE.replace(b'"keygrip":"14', b'"keygrip":"1'),
        b"\xff" + LINE,
        LINE + b"\n",
        LINE.replace(b'"rpmsign', b'"\\u0072pmsign'),
        LINE.replace(b'"uid":1000,', b'"uid":1000'),
        LINE.replace(b'"uid":1000,', b'"uid":1000,,'),
        LINE.replace(b'"uid":1000,', b'"uid":1000,"uid":1000,'),
        LINE.replace(b'"job":{"id":"7"}', b'"job":{"id":"7"},'),
        LINE.replace(b'"uid":1000', b'"uid":' + b"9" * 5000),
        LINE.replace(b'"job":{"id":"7"}', b'"job":{"id":"\\ud83d"}'),
        LINE.replace(b'"job":{"id":"7"}', b'"job":{"id":"\\ude00\\ud83d"}'),
    ],
)
def test_a_line_in_any_other_form_is_not_a_record(line: bytes) -> None:
    assert not is_canonical(line)
    with pytest.raises(RemoteProtocolError):
        AuditRecord.parse(line)


def test_a_node_that_is_no_name_is_not_a_records() -> None:
    line = LINE.replace(b'"node":"%s"' % RECORD.node.encode(), b'"node":"\\u00e9"')
    assert line != LINE
    with pytest.raises(RemoteProtocolError):
        AuditRecord.parse(line)


def test_a_digest_of_another_length_is_not_a_records() -> None:
    for algorithm in (b"10", b"null", b"99"):
        with pytest.raises(RemoteProtocolError):
            AuditRecord.parse(LINE.replace(b'"hash_algorithm":8', b'"hash_algorithm":' + algorithm))


_TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)


@given(_TEXTS, st.integers(), st.lists(_TEXTS, max_size=8), st.dictionaries(_TEXTS, _TEXTS, max_size=3))
def test_whatever_a_relay_claims_becomes_a_canonical_line(
    text: str, number: int, texts: list[str], job: dict[str, str]
) -> None:
    try:
        claims = Claims(number, text or None, abs(number), tuple(texts), text, None, job)
        asserted = Asserted(text, text, None, text, text, text, claims)
    except RemoteProtocolError:
        return  # marks that change the direction of writing
    line = replace(RECORD, entry=replace(ENTRY, asserted=asserted, reason=text, details={"x": text})).line()
    assert is_canonical(line)
    assert AuditRecord.parse(line).line() == line


def test_a_signature_is_named_by_the_hash_of_its_numbers() -> None:
    assert signature_sha256(RsaSignature(b"\x01\x02")) == hashlib.sha256(b"\x01\x02").digest()
    assert signature_sha256(EddsaSignature(b"r" * 32, b"s" * 32)) == hashlib.sha256(b"r" * 32 + b"s" * 32).digest()


@pytest.mark.parametrize("what", [{"operation": "a\nb"}, {"reason": "a\nb"}, {"request": "x"}, {"key": "../x"}])
def test_an_entry_takes_no_text_that_could_forge_a_line(what: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError):
        Entry(**{"operation": "sign", "outcome": Outcome.FAILED, **what})  # type: ignore[arg-type]  # a table of bad fields
