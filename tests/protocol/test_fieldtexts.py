"""What the messages of a signature write and read by themselves is what `json` and `structure` would write and read."""

import dataclasses
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Protocol, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted, Claims, Head
from agentproxy.protocol.hashstates import MAX_LENGTH, HashState
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.oracle_messages import Signed
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.seal_messages import Seal, Sealed, SealState, StateSealed
from agentproxy.protocol.sha2 import FUNCTIONS
from agentproxy.protocol.signatures import DsaSignature, EcdsaSignature, EddsaSignature, RsaSignature
from agentproxy.protocol.signer_answers import DigestSigned
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER
from agentproxy.protocol.signer_requests import SignDigest
from agentproxy.protocol.unstructure import unstructured
from agentproxy.protocol.wire import MessageCodec, Tagged

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cf")), max_size=40)
IDS = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
NUMBERS = st.integers(0, 2**31)
DIGESTS = st.sampled_from(HashAlgorithm).flatmap(
    lambda algorithm: st.binary(min_size=algorithm.digest_size, max_size=algorithm.digest_size).map(
        lambda value: Digest(algorithm, value)
    )
)
GRIPS = st.binary(min_size=20, max_size=20).map(Keygrip)
UNSIGNED = st.binary(max_size=31).map(lambda rest: b"\x01" + rest)
HALVES = st.binary(min_size=32, max_size=32)
SIGNATURES = st.one_of(
    st.builds(RsaSignature, UNSIGNED),
    st.builds(DsaSignature, UNSIGNED, UNSIGNED),
    st.builds(EcdsaSignature, UNSIGNED, UNSIGNED),
    st.builds(EddsaSignature, HALVES, HALVES),
)
LONG_HALVES = st.binary(min_size=57, max_size=57)
ED448 = st.builds(EddsaSignature, LONG_HALVES, LONG_HALVES)


@st.composite
def states(draw: st.DrawFn) -> HashState:
    algorithm = draw(st.sampled_from(list(FUNCTIONS)))
    initial, block = FUNCTIONS[algorithm].initial, FUNCTIONS[algorithm].block
    length = draw(st.integers(0, MAX_LENGTH) | st.integers(0, 2 * block))
    value = initial if length < block else draw(st.binary(min_size=len(initial), max_size=len(initial)))
    return HashState(algorithm, value, length, draw(st.binary(min_size=length % block, max_size=length % block)))


STATE = states()
MOMENTS = st.datetimes(
    datetime(1970, 1, 2),  # noqa: DTZ001  hypothesis adds the zone
    datetime(2106, 2, 6),  # noqa: DTZ001
    timezones=st.just(UTC) | st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours))),
).map(lambda moment: moment.replace(microsecond=0))
SEAL_PARTS = {
    "fingerprint": st.binary(min_size=20, max_size=20).map(Fingerprint),
    "created": MOMENTS,
    "digest": DIGESTS,
    "signature": SIGNATURES,
}
ED448_PARTS = {"fingerprint": st.binary(min_size=32, max_size=32).map(Fingerprint), "signature": ED448}
SEALS = st.builds(DocumentSignature, **SEAL_PARTS) | st.builds(DocumentSignature, **SEAL_PARTS | ED448_PARTS)
HEADS = st.builds(Head, NAMES, st.integers(1, 2**60), HALVES)
CLAIMS = {
    "uid": st.none() | NUMBERS,
    "user": st.none() | TEXTS,
    "pid": st.none() | NUMBERS,
    "commands": st.lists(TEXTS, max_size=8).map(tuple),
    "file": st.none() | TEXTS,
    "package": st.none() | TEXTS,
    "job": st.dictionaries(TEXTS, TEXTS, max_size=4),
    "distributions": st.lists(NAMES, max_size=4).map(tuple),
}
ASSERTED = {
    "runner": st.none() | TEXTS,
    "token": st.none() | TEXTS,
    "certificate": st.none() | TEXTS,
    "address": st.none() | TEXTS,
    "channel": st.just("relay") | TEXTS,
    "distribution": st.none() | TEXTS,
    "claims": st.none() | st.builds(Claims, **CLAIMS),
}
SIGN = {
    "id": IDS,
    "keygrip": GRIPS,
    "digest": DIGESTS,
    "remaining_ms": st.integers(0, 600_000),
    "distribution": st.none() | NAMES,
    "claims": ASSERTED["claims"],
    "socket": st.none() | NAMES,
}
SIGN_DIGEST = {
    "id": NUMBERS,
    "request": IDS,
    "keygrip": GRIPS,
    "digest": DIGESTS,
    "asserted": st.builds(Asserted, **ASSERTED),
}
SEAL = {**{"state" if name == "digest" else name: values for name, values in SIGN.items()}, "state": STATE}
SEAL_STATE = {**{"state" if name == "digest" else name: values for name, values in SIGN_DIGEST.items()}, "state": STATE}


MESSAGES: Mapping[str, tuple[MessageCodec[Tagged], st.SearchStrategy[Tagged]]] = {
    "sign": (FROM_RELAY, st.builds(Sign, **SIGN)),
    "sign_digest": (TO_SIGNER, st.builds(SignDigest, **SIGN_DIGEST)),
    "signed": (FROM_ORACLE, st.builds(Signed, IDS, SIGNATURES | ED448, HEADS)),
    "digest_signed": (FROM_SIGNER, st.builds(DigestSigned, NUMBERS, SIGNATURES | ED448, HEADS)),
    "seal": (FROM_RELAY, st.builds(Seal, **SEAL)),
    "seal_state": (TO_SIGNER, st.builds(SealState, **SEAL_STATE)),
    "sealed": (FROM_ORACLE, st.builds(Sealed, IDS, SEALS, HEADS)),
    "state_sealed": (FROM_SIGNER, st.builds(StateSealed, NUMBERS, SEALS, HEADS)),
}
# What JSON, or a part of our own types, might read in another way than a regular expression does.
PIECES = [
    *(b"0", b"-", b"-0", b"01", b"1.0", b"1e3", b"9" * 19, b"9" * 5000, b"true", b"null", b"NaN", b"[]", b"{}", b'""'),
    *(
        b'"',
        b"\\",
        b"\\u0041",
        b'\\"',
        b"\\n",
        b"\n",
        b" ",
        b",",
        b":",
        b"{",
        b"}",
        b"]",
        b"}}",
        b"A",
        b"f",
        b"g",
        b"00",
    ),
    *("\N{ARABIC-INDIC DIGIT ONE}".encode(), "\N{FULLWIDTH DIGIT ONE}".encode(), "é".encode(), b"\xff", b"\x7f", b"\0"),
    *(b'"claims":{}', b',"claims":{"job":{"a":"1","a":"2"}}', b'"uid":true', b',"socket":"x"', b',"channel":"relay"'),
    *(b"2026-02-29T00:00:00.000000Z", b"1970-01-01T00:00:00.000000Z", b"T24:", b".000001Z", b"+00:00", b"0001-01-01"),
    *(b'"rest":"",', b'"length":1152921504606846977,', b"00" * 12, b'"created":0,', b'"seal":{},', b'"state":null,'),
    *(b'"algorithm":"rsa",', b'"algorithm":8,', b'"type":"sign",', b'"r":"00",', b',"id":1', b"\xef\xbb\xbf"),
]


@st.composite
def damaged(draw: st.DrawFn, payload: bytes) -> bytes:
    """`payload` with a few pieces put in, put in place of others, taken out, doubled, or in the other case."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(payload)))
        end = draw(st.sampled_from((start, start + 1, start + 2)) | st.integers(start, len(payload)))
        before, middle, after = payload[:start], payload[start:end], payload[end:]
        changed = draw(st.sampled_from((b"", middle * 2, middle.swapcase(), None)) | st.sampled_from(PIECES))
        payload = before + (draw(st.binary(max_size=3)) if changed is None else changed) + after
    return payload


@st.composite
def rearranged(draw: st.DrawFn, payload: bytes) -> bytes:
    """`payload` with the members of one of its objects shuffled, one of them twice, missing or something else."""
    fields = json.loads(payload)
    objects = [fields]
    for found in objects:
        objects += [value for value in found.values() if isinstance(value, dict)]
    chosen = draw(st.sampled_from([found for found in objects if found]))
    names = draw(st.permutations(list(chosen)))
    again = names[0]
    kind = draw(st.sampled_from(("order", "double", "missing", "other")))
    if kind == "other":
        chosen[again] = draw(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({})
        )
    if kind == "missing":
        del chosen[again]
    members = [f"{json.dumps(name)}:{json.dumps(chosen[name])}" for name in names if name in chosen]
    if kind == "double":
        members.append(members[0])
    text = json.dumps(fields, separators=(",", ":"))
    return text.replace(json.dumps(chosen, separators=(",", ":")), "{" + ",".join(members) + "}").encode("ascii")


def outcome(codec: MessageCodec[Tagged], payload: bytes) -> Tagged | str:
    try:
        return codec.decode(payload)
    except RemoteProtocolError as error:
        return str(error)


def plainly(message: Tagged) -> bytes:
    fields = {"type": message.tag, **unstructured(message)}
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def test_no_field_is_forgotten_here() -> None:
    kinds = {
        Claims: CLAIMS, Asserted: ASSERTED, DocumentSignature: SEAL_PARTS,
        Sign: SIGN, SignDigest: SIGN_DIGEST, Seal: SEAL, SealState: SEAL_STATE,
    }  # fmt: skip
    for kind, strategies in kinds.items():
        assert [field.name for field in dataclasses.fields(kind)] == list(strategies)
    for answer in (Signed, DigestSigned):
        assert [field.name for field in dataclasses.fields(answer)] == ["id", "signature", "head"]
    for answer in (Sealed, StateSealed):
        assert [field.name for field in dataclasses.fields(answer)] == ["id", "seal", "head"]
    assert [field.name for field in dataclasses.fields(Head)] == ["node", "sequence", "hash"]
    assert [field.name for field in dataclasses.fields(HashState)] == ["algorithm", "chaining_value", "length", "rest"]


@pytest.mark.parametrize("tag", MESSAGES)
@given(st.data())
def test_what_is_written_is_the_text_of_json_and_structure(tag: str, data: st.DataObject) -> None:
    codec, messages = MESSAGES[tag]
    message = data.draw(messages)
    assert message.tag == tag
    assert codec.encode(message) == plainly(message)
    assert codec.decode(codec.encode(message)) == message


class Readable(Tagged, Protocol):
    """A message that reads its own text."""

    pattern: str

    def members(self) -> str:
        """The fields as JSON."""

    @classmethod
    def of_match(cls, found: re.Match[str]) -> Self:
        """Read that."""


PLAIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"\\'), max_size=40)
PLAINLY_ASSERTED = st.builds(
    Asserted,
    **{name: st.none() | PLAIN for name in ASSERTED if name not in {"channel", "claims"}},
    channel=st.just("relay") | PLAIN,
    claims=ASSERTED["claims"],
)


@given(
    st.one_of(
        MESSAGES["sign"][1],
        MESSAGES["signed"][1],
        MESSAGES["digest_signed"][1],
        MESSAGES["seal"][1],
        MESSAGES["sealed"][1],
        MESSAGES["state_sealed"][1],
        st.builds(SignDigest, **{**SIGN_DIGEST, "asserted": PLAINLY_ASSERTED}),
        st.builds(SealState, **{**SEAL_STATE, "asserted": PLAINLY_ASSERTED}),
    )
)
def test_a_text_of_ours_is_read_the_quick_way(message: Readable) -> None:
    found = re.fullmatch(message.pattern, message.members())
    assert found is not None
    assert message.of_match(found) == message


# A blank behind the first brace means nothing in JSON, and is never written by us.
@pytest.mark.parametrize("tag", MESSAGES)
@given(st.data())
def test_a_changed_text_means_what_it_means_to_json_and_structure(tag: str, data: st.DataObject) -> None:
    codec, messages = MESSAGES[tag]
    payload = codec.encode(data.draw(messages))
    changed = data.draw(st.one_of(damaged(payload), rearranged(payload)))
    assert outcome(codec, changed) == outcome(codec, changed.replace(b"{", b"{ ", 1))


@pytest.mark.parametrize("tag", MESSAGES)
@given(st.data())
def test_a_text_without_blanks_and_with_them_is_the_same(tag: str, data: st.DataObject) -> None:
    codec, messages = MESSAGES[tag]
    message = data.draw(messages)
    payload = json.dumps(json.loads(codec.encode(message)), indent=1).encode("ascii")
    assert codec.decode(payload) == message
