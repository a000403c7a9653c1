"""What the messages of a signature write by themselves is what `json` and cattrs would write."""

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Asserted, Claims, Head
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, Sign, Signed
from agentproxy.protocol.signatures import DsaSignature, EcdsaSignature, EddsaSignature, RsaSignature
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER, DigestSigned, SignDigest
from agentproxy.protocol.wire import Tagged, new_converter

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


def plainly(message: Tagged) -> bytes:
    fields = {"type": message.tag, **new_converter().unstructure(message)}
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def test_no_field_is_forgotten_here() -> None:
    for kind, strategies in ((Claims, CLAIMS), (Asserted, ASSERTED), (Sign, SIGN), (SignDigest, SIGN_DIGEST)):
        assert [field.name for field in dataclasses.fields(kind)] == list(strategies)
    for answer in (Signed, DigestSigned):
        assert [field.name for field in dataclasses.fields(answer)] == ["id", "signature", "head"]
    assert [field.name for field in dataclasses.fields(Head)] == ["node", "sequence", "hash"]


@given(st.builds(Sign, **SIGN))
def test_sign(message: Sign) -> None:
    assert FROM_RELAY.encode(message) == plainly(message)
    assert FROM_RELAY.decode(FROM_RELAY.encode(message)) == message


@given(st.builds(SignDigest, **SIGN_DIGEST))
def test_sign_digest(message: SignDigest) -> None:
    assert TO_SIGNER.encode(message) == plainly(message)
    assert TO_SIGNER.decode(TO_SIGNER.encode(message)) == message


@given(st.builds(Signed, IDS, SIGNATURES, HEADS))
def test_signed(message: Signed) -> None:
    assert FROM_ORACLE.encode(message) == plainly(message)
    assert FROM_ORACLE.decode(FROM_ORACLE.encode(message)) == message


@given(st.builds(DigestSigned, NUMBERS, SIGNATURES, HEADS))
def test_digest_signed(message: DigestSigned) -> None:
    assert FROM_SIGNER.encode(message) == plainly(message)
    assert FROM_SIGNER.decode(FROM_SIGNER.encode(message)) == message
