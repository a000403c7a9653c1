"""JSON messages: each reads as what was written, and anything else is a remote error."""

import contextlib
import dataclasses
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.fields import MAX_CLAIM, Asserted, Claims, Head, KeyFacts
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.key_messages import SelectedKey, SelectKey, ServedKey
from agentproxy.protocol.keys import Curve, EccPublicKey, Fingerprint, Keygrip, RsaPublicKey
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, FromOracle, FromRelay
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.oracle_messages import (
    Certificate,
    Drain,
    Failed,
    KeysChanged,
    Refused,
    Rejected,
    Signed,
    Welcome,
)
from agentproxy.protocol.relay_messages import FetchCertificate, Hello, Ping, Pong, Sign
from agentproxy.protocol.seal_messages import Seal, Sealed, SealState, StateSealed
from agentproxy.protocol.signatures import DsaSignature, EcdsaSignature, EddsaSignature, RsaSignature
from agentproxy.protocol.signer_answers import DigestSigned, Issued, Keys, NotDone, Recorded, StatusReport
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER, FromSigner, ToSigner
from agentproxy.protocol.signer_requests import CertificateKind, Issue, ListKeys, Outcome, Record, SignDigest, Status
from agentproxy.protocol.times import format_time, parse_time

ID = "0123456789abcdef" * 2
NOON = datetime(2026, 11, 22, 12, 0, 0, 5, tzinfo=UTC)
HEAD = Head("node-1", 7, b"\x07" * 32)
DIGEST = Digest(HashAlgorithm.SHA256, b"\x11" * 32)
STATE = HashState.initial(HashAlgorithm.SHA512).updated(b"x" * 200)
SEALS = [
    DocumentSignature(Fingerprint(b"\x01" * 20), datetime(2026, 11, 22, tzinfo=UTC), DIGEST, signature)
    for signature in (
        RsaSignature(b"\x81" * 512),
        DsaSignature(b"\x01", b"\x02"),
        EcdsaSignature(b"\x01", b"\x02"),
        EddsaSignature(bytes(32), bytes(32)),
    )
]
GRIP = Keygrip(b"\xab" * 20)
CLAIMS = Claims(
    1000, "ci", 42, ("gpg --detach-sign", "rpmsign --addsign x"), "/x.rpm", "x-0:1-1.noarch", {"job": "7"}, ("el9",)
)
ASSERTED = Asserted("b1", "0123456789ab", "cd" * 32, "192.0.2.1:5", "relay", "el9", CLAIMS)
ED25519 = EccPublicKey(Curve.ED25519, bytes(32))
RSA = RsaPublicKey(b"\x80\x01", b"\x03")


def facts(key: EccPublicKey | RsaPublicKey) -> KeyFacts:
    return KeyFacts(
        "modern",
        Fingerprint(b"\x01" * 20),
        Fingerprint(b"\x02" * 32),
        key.keygrip,
        key,
        (HashAlgorithm.SHA256, HashAlgorithm.SHA512),
        can_certify=False,
        created=NOON,
        expires=NOON if key is RSA else None,
        user_id="Ä <a@example.org>" if key is RSA else "",
        seal_only=key is RSA,
    )


SERVED = (ServedKey(facts(ED25519), "modern"), ServedKey(facts(RSA), "legacy", ("el7", "el8*")))

RELAY_MESSAGES: list[FromRelay] = [
    Hello(1, "bo_secret", "blind-oracle 0.1.0"),
    Sign(ID, GRIP, DIGEST, 30_000),
    Sign(ID, GRIP, DIGEST, 0, "el9", CLAIMS),
    Seal(ID, GRIP, STATE, 30_000),
    Seal(ID, GRIP, STATE, 0, "el9", CLAIMS),
    FetchCertificate(ID, Fingerprint(b"\x01" * 20)),
    SelectKey(ID, "el10-x86_64"),
    SelectKey(ID, "el7-x86_64", "legacy"),
    Ping(ID),
    Pong(ID),
]
ORACLE_MESSAGES: list[FromOracle] = [
    Welcome(1, "node-1", "b1", "blind-oracle 0.1.0", NOON, SERVED, 64, HEAD),
    Welcome(1, "node-1", "b1", "", NOON, (), 64),
    *(Rejected(code) for code in RejectionCode),
    Signed(ID, RsaSignature(b"\x81" * 512), HEAD),
    Signed(ID, EcdsaSignature(b"\x01", b"\x02"), HEAD),
    Signed(ID, EddsaSignature(bytes(57), bytes(57)), HEAD),
    *(Sealed(ID, seal, HEAD) for seal in SEALS),
    *(Refused(ID, code, "a reason", 1500) for code in RefusalCode),
    *(Failed(ID, code, retryable=True) for code in FailureCode),
    Certificate(ID, 1, 2, b"\x99\x00"),
    SelectedKey(ID, SERVED[0]),
    KeysChanged(SERVED),
    KeysChanged(()),
    Drain(),
    Ping(ID),
    Pong(ID),
]
SIGNER_REQUESTS: list[ToSigner] = [
    ListKeys(1),
    SignDigest(2, ID, GRIP, DIGEST, ASSERTED),
    SignDigest(2, ID, GRIP, DIGEST, Asserted()),
    SealState(2, ID, GRIP, STATE, ASSERTED),
    Record(
        3, "sign", Outcome.REFUSED, "rate_limited: 10 a minute", ASSERTED, ID, GRIP, DIGEST, {"a": "b"}, durable=False
    ),
    Record(3, "runner_added", Outcome.DONE, "", Asserted(channel="cli")),
    Issue(4, CertificateKind.SERVER, "node-1", ("localhost", "127.0.0.1"), 30, Asserted(channel="cli")),
    Status(5),
]
SIGNER_ANSWERS: list[FromSigner] = [
    Keys(1, "node-1", (facts(ED25519), facts(RSA)), HEAD),
    DigestSigned(2, RsaSignature(b"\x01"), HEAD),
    *(StateSealed(2, seal, HEAD) for seal in SEALS),
    Recorded(3, HEAD),
    Issued(4, "PEM", "PEM", "PEM", b"\x05" * 32, NOON),
    StatusReport(5, operational=False, reason="audit log: no space", keys=2, signatures=9),
    NotDone(6, FailureCode.KEY_UNAVAILABLE, "no such key", retryable=False),
]


CASES = [
    *((FROM_RELAY, message) for message in RELAY_MESSAGES),
    *((FROM_ORACLE, message) for message in ORACLE_MESSAGES),
    *((TO_SIGNER, message) for message in SIGNER_REQUESTS),
    *((FROM_SIGNER, message) for message in SIGNER_ANSWERS),
]
CODECS = [FROM_RELAY, FROM_ORACLE, TO_SIGNER, FROM_SIGNER]


@pytest.mark.parametrize(("codec", "message"), CASES)
def test_every_message_reads_as_it_was_written(codec, message) -> None:
    encoded = codec.encode(message)
    assert encoded.isascii()
    assert codec.decode(encoded) == message
    assert codec.encode(codec.decode(encoded)) == encoded
    assert json.loads(encoded)["type"] == message.tag


@pytest.mark.parametrize(("codec", "message"), CASES)
def test_every_message_with_a_field_more_or_less_or_of_another_type_is_refused(codec, message) -> None:
    fields = json.loads(codec.encode(message))
    broken = [{**fields, "surprise": 1}, {name: value for name, value in fields.items() if name != "type"}]
    required = {
        field.name
        for field in dataclasses.fields(message)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    broken += [{name: value for name, value in fields.items() if name != missing} for missing in required]
    for name, value in fields.items():
        others = [None, True, 1, 1.5, "\n", [], [[]], {}, {"a": []}]
        broken += [{**fields, name: other} for other in others if type(other) is not type(value)]
    for candidate in broken:
        encoded = json.dumps(candidate).encode()
        try:
            decoded = codec.decode(encoded)
        except RemoteProtocolError:
            continue
        # Only a null for an optional field may pass, and it means the field's absence.
        assert None in candidate.values(), candidate
        assert {name: value for name, value in candidate.items() if value is not None} == json.loads(
            codec.encode(decoded)
        )


@pytest.mark.parametrize(
    "untrusted",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"ping"',
        b"{}",
        b"{",
        b'{"type":"ping"}',
        b'{"type":"nothing","id":"%s"}' % ID.encode(),
        b'{"type":["ping"],"id":"%s"}' % ID.encode(),
        b'{"type":{},"id":1}',
        b'{"type":"signed","id":1}',
        b'{"type":"ping","id":"%s","id":"%s"}' % (ID.encode(), ID.encode()),
        b'{"type":"ping","type":"ping","id":"%s"}' % ID.encode(),
        b'{"type":"ping","id":"%s"} x' % ID.encode(),
        b'{"type":"ping","id":NaN}',
        b'{"type":"ping","id":Infinity}',
        b'{"type":"ping","id":"%s"}' % ID.upper().encode(),
        b'{"type":"ping","id":"%s\\n"}' % ID[1:].encode(),
        b"\xff\xfe",
        b'\xef\xbb\xbf{"type":"drain"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"type":"ping","id":' + b"9" * 60_000 + b"}",
        b'{"type":"ping","id":1e999}',
    ],
)
def test_what_is_no_message_is_a_remote_error(untrusted: bytes) -> None:
    for codec in CODECS:
        with pytest.raises(RemoteProtocolError):
            codec.decode(untrusted)


def complaint(codec, fields: dict[str, object]) -> str:
    try:
        codec.decode(json.dumps(fields).encode())
    except RemoteProtocolError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("codec", "message"), CASES)
def test_what_is_wrong_with_a_message_is_said_in_our_words(codec, message) -> None:
    """Logs and `status` show them: a peer must not write lines of its own there, nor fill them."""
    fields = json.loads(codec.encode(message))
    made_up = "\n\x1b\u202e" + "x" * 20_000
    broken = [{**fields, made_up: 1}, *({**fields, name: made_up} for name in fields)]
    broken += [{**fields, name: {**value, made_up: 1}} for name, value in fields.items() if isinstance(value, dict)]
    complaints = [complaint(codec, candidate) for candidate in broken]
    assert all(text.isprintable() and len(text) < 400 for text in complaints), complaints
    assert complaints[0].startswith(f"{message.tag}: unknown field ")


@pytest.mark.parametrize(
    ("untrusted", "words"),
    [
        (b'{"type":"ping"}', "ping: the field 'id' is missing"),
        (b'{"type":"drain","more":1}', "drain: unknown field 'more'"),
        (
            FROM_ORACLE.encode(ORACLE_MESSAGES[0]).replace(b"[8,10]", b"[%s]" % (b"9" * 4000)),
            "welcome: unknown hash algorithm 99999999",
        ),
    ],
)
def test_a_field_less_or_more_is_named(untrusted: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        FROM_ORACLE.decode(untrusted)
    assert str(caught.value) == words


def sign_with(**changes: object) -> bytes:
    return json.dumps({**json.loads(FROM_RELAY.encode(Sign(ID, GRIP, DIGEST, 5))), **changes}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"keygrip": "ab" * 19},
        {"keygrip": "ab" * 19 + " a"},
        {"keygrip": "ab" * 20 + "\n"},
        {"digest": {"algorithm": 8, "value": "11" * 31}},
        {"digest": {"algorithm": 8, "value": "AA" * 32}},
        {"digest": {"algorithm": 8, "value": " " + "11" * 32}},
        {"digest": {"algorithm": 8, "value": "1" * 63}},
        {"digest": {"algorithm": 7, "value": "11" * 32}},
        {"digest": {"algorithm": True, "value": "11" * 32}},
        {"digest": {"algorithm": "8", "value": "11" * 32}},
        {"digest": {"algorithm": 8.0, "value": "11" * 32}},
        {"remaining_ms": -1},
        {"remaining_ms": 600_001},
        {"distribution": "../el9"},
        {"distribution": ""},
        {"claims": []},
        {"claims": "ab"},
        {"claims": {"commands": "gpg"}},
        {"claims": {"commands": ["a"] * 9}},
        {"claims": {"user": "a\nb"}},
        {"claims": {"user": "a\x1b[31m"}},
        {"claims": {"user": "a\u202e"}},
        {"claims": {"user": "\ud800"}},
        {"claims": {"user": "x" * (MAX_CLAIM + 1)}},
        {"claims": {"job": {"a\x00": "b"}}},
        {"claims": {"job": [["a", "b"]]}},
        {"claims": {"job": {str(number): "" for number in range(17)}}},
        {"claims": {"uid": "0"}},
    ],
)
def test_a_sign_request_with_a_bad_value_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        FROM_RELAY.decode(sign_with(**changes))


@pytest.mark.parametrize("milliseconds", [-1, 86_400_001, 10**400])
def test_a_refusal_for_longer_than_a_day_is_none(milliseconds: int) -> None:
    fields = json.loads(FROM_ORACLE.encode(Refused(ID, RefusalCode.RATE_LIMITED, "too many", 86_400_000)))
    with pytest.raises(RemoteProtocolError):
        FROM_ORACLE.decode(json.dumps({**fields, "retry_after_ms": milliseconds}).encode())


def test_a_keygrip_of_either_case_is_read_and_written_in_upper_case() -> None:
    message = FROM_RELAY.decode(sign_with(keygrip="ab" * 20))
    assert b'"ABABABAB' in FROM_RELAY.encode(message)


def test_text_that_is_not_printable_and_not_a_control_character_is_kept() -> None:
    text = "no\u00a0break \u00e4 \u0378"
    message = FROM_RELAY.decode(sign_with(claims={"user": text}))
    assert isinstance(message, Sign)
    assert message.claims == Claims(user=text)


def test_a_key_whose_keygrip_is_another_keys_is_refused() -> None:
    fields = json.loads(FROM_ORACLE.encode(KeysChanged(SERVED[:1])))
    fields["keys"][0]["facts"]["keygrip"] = "00" * 20
    with pytest.raises(RemoteProtocolError, match="keygrip"):
        FROM_ORACLE.decode(json.dumps(fields).encode())


@pytest.mark.parametrize("user_id", ["a\x1b]0;b\x07", "a\nrelay b1: connected", "a" * 1025])
def test_a_key_whose_user_id_would_write_on_a_terminal_is_refused(user_id: str) -> None:
    fields = json.loads(FROM_ORACLE.encode(KeysChanged(SERVED[:1])))
    fields["keys"][0]["facts"]["user_id"] = user_id
    with pytest.raises(RemoteProtocolError, match="user_id"):
        FROM_ORACLE.decode(json.dumps(fields).encode())


def test_messages_travel_in_their_own_direction_only() -> None:
    for codec, message in CASES:
        for other in CODECS:
            if all(tag is not type(message) for tag in other._classes.values()):
                with pytest.raises(LocalProtocolError):
                    other.encode(message)
                with pytest.raises(RemoteProtocolError):
                    other.decode(codec.encode(message))


def test_secrets_do_not_show_in_a_representation() -> None:
    assert "bo_secret" not in repr(RELAY_MESSAGES[0])
    assert "private_key" not in repr(next(answer for answer in SIGNER_ANSWERS if isinstance(answer, Issued)))


TIMES = [
    ("2026-11-22T12:00:00.000005Z", NOON),
    ("1970-01-01T00:00:00.000000Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ("2024-02-29T23:59:59.999999Z", datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)),
]


@pytest.mark.parametrize(("text", "moment"), TIMES)
def test_times_both_ways(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment
    assert format_time(moment) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-22T12:00:00Z",
        "2026-11-22T12:00:00.000005+00:00",
        "2026-11-22 12:00:00.000005Z",
        "2026-02-30T12:00:00.000005Z",
        "2026-11-22T24:00:00.000005Z",
        "0000-01-01T00:00:00.000000Z",
        "2026-11-22T12:00:00.000005Z\n",
        "٢٠٢٦-11-22T12:00:00.000005Z",
    ],
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_time(text)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.sampled_from(["", ID]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(CASES), st.data())
def test_a_message_with_anything_in_one_place_decodes_or_is_a_remote_error(case, data) -> None:
    codec, message = case
    fields = json.loads(codec.encode(message))
    place = fields
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not (isinstance(place[key], dict) and place[key] and data.draw(st.booleans())):
            break
        place = place[key]
    place[key] = data.draw(JSON_VALUES)
    with contextlib.suppress(RemoteProtocolError):
        decoded = codec.decode(json.dumps(fields).encode())
        assert codec.decode(codec.encode(decoded)) == decoded


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_a_remote_error(untrusted: bytes) -> None:
    for codec in CODECS:
        with contextlib.suppress(RemoteProtocolError):
            codec.decode(untrusted)
