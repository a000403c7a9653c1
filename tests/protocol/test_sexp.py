import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.sexp import (
    MAX_DEPTH,
    SExpression,
    encode,
    encode_public_key,
    encode_signature,
    parse,
    parse_public_key,
    parse_signature,
)
from agentproxy.protocol.signatures import (
    DsaSignature,
    EcdsaSignature,
    EddsaSignature,
    RsaSignature,
    Signature,
)

EXPRESSIONS: list[tuple[bytes, SExpression]] = [
    (b"()", ()),
    (b"(1:a)", (b"a",)),
    (b"(1:((1:)))", (b"(", (b")",))),
    (b"(3:1:2)", (b"1:2",)),
    (b"(2:\x00\xff()(()))", (b"\x00\xff", (), ((),))),
    (b"(10:0123456789)", (b"0123456789",)),
    (b"(" * MAX_DEPTH + b")" * MAX_DEPTH, ()),
]


@pytest.mark.parametrize(("encoded", "expression"), EXPRESSIONS)
def test_expressions_both_ways(encoded: bytes, expression: SExpression) -> None:
    assert encode(parse(encoded)) == encoded
    if encoded.count(b"(") < MAX_DEPTH:
        assert parse(encoded) == expression


BROKEN = [
    b"",
    b"3:abc",
    b"(",
    b")",
    b"())",
    b"()x",
    b"()\n",
    b" ()",
    b"(0:)",
    b"(00001:a)",
    b"(01:a)",
    b"(99999999999:a)",
    b"(999999:a)",
    b"(2:a)",
    b"(2:)",
    b"(-1:a)",
    b"(+1:a)",
    b"(1_0:0123456789)",
    b"(1 :a)",
    b"( 1:a)",
    b"(1:a",
    b"(1a)",
    b"(1)",
    b"(:a)",
    b"([1:b]1:a)",
    b"(a)",
    b"(#41#)",
    b"{KDE6YSk=}",
    b"(" * (MAX_DEPTH + 1) + b")" * (MAX_DEPTH + 1),
    b"(" * 60_000,
    b"(65530:" + b"x" * 65530 + b")",
]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_not_one_canonical_list_is_refused(broken: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(broken)
    with pytest.raises(RemoteProtocolError):
        parse_signature(broken)


def test_empty_atoms_are_not_written() -> None:
    with pytest.raises(LocalProtocolError):
        encode((b"a", b""))


SIGNATURES: list[tuple[bytes, Signature]] = [
    (b"(7:sig-val(3:rsa(1:s2:\x80\x01)))", RsaSignature(b"\x80\x01")),
    (b"(7:sig-val(3:dsa(1:r1:\x01)(1:s2:\x02\x00)))", DsaSignature(b"\x01", b"\x02\x00")),
    (b"(7:sig-val(5:ecdsa(1:r1:\x01)(1:s1:\x02)))", EcdsaSignature(b"\x01", b"\x02")),
    (b"(7:sig-val(5:eddsa(1:r32:" + b"r" * 32 + b")(1:s32:" + bytes(32) + b")))", EddsaSignature(b"r" * 32, bytes(32))),
    (b"(7:sig-val(5:eddsa(1:r57:" + bytes(57) + b")(1:s57:" + b"s" * 57 + b")))", EddsaSignature(bytes(57), b"s" * 57)),
]


@pytest.mark.parametrize(("encoded", "signature"), SIGNATURES)
def test_signatures_both_ways(encoded: bytes, signature: Signature) -> None:
    assert encode_signature(signature) == encoded
    assert parse_signature(encoded) == signature


def test_leading_zeros_of_an_agents_numbers_are_dropped() -> None:
    assert parse_signature(b"(7:sig-val(5:ecdsa(1:r2:\x00\x81)(1:s3:\x00\x00\x02)))") == EcdsaSignature(
        b"\x81", b"\x02"
    )


@pytest.mark.parametrize(
    "encoded",
    [
        b"(7:sig-val)",
        b"(7:sig-val3:rsa)",
        b"(7:sig-val(3:rsa))",
        b"(7:sig-val(3:rsa(1:s)))",
        b"(7:sig-val(3:rsa(1:s1:\x00)))",
        b"(7:sig-val(3:rsa(1:r1:\x01)))",
        b"(7:sig-val(3:rsa(1:s1:\x01)(1:s1:\x01)))",
        b"(7:sig-val(3:rsa(1:s(1:\x01))))",
        b"(7:sig-val(3:rsa(1:s1:\x01))(4:hash6:sha256))",
        b"(7:sig-val(3:elg(1:r1:\x01)(1:s1:\x01)))",
        b"(7:sig-val(5:ecdsa(1:s1:\x01)(1:r1:\x01)))",
        b"(7:sig-val(5:ecdsa(1:r67:" + b"\x01" * 67 + b")(1:s1:\x01)))",
        b"(7:sig-val(5:eddsa(1:r31:" + b"\x01" * 31 + b")(1:s32:" + b"\x01" * 32 + b")))",
        b"(10:public-key(3:rsa(1:n1:\x01)(1:e1:\x03)))",
    ],
)
def test_other_layouts_are_no_signature(encoded: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_signature(encoded)


P = b"\x80" + bytes(31)
PUBLIC_KEYS: list[tuple[PublicKey, bytes]] = [
    (RsaPublicKey(b"\x80\x01", b"\x01\x00\x01"), b"(10:public-key(3:rsa(1:n3:\x00\x80\x01)(1:e3:\x01\x00\x01)))"),
    (
        DsaPublicKey(b"\x07", b"\x03", b"\x02", b"\x80"),
        b"(10:public-key(3:dsa(1:p1:\x07)(1:q1:\x03)(1:g1:\x02)(1:y2:\x00\x80)))",
    ),
    (EccPublicKey(Curve.ED25519, P), b"(10:public-key(3:ecc(5:curve7:Ed25519)(5:flags5:eddsa)(1:q33:\x40" + P + b")))"),
    (
        EccPublicKey(Curve.P256, b"\x04" + P + P),
        b"(10:public-key(3:ecc(5:curve10:NIST P-256)(1:q65:\x04" + P + P + b")))",
    ),
]


@pytest.mark.parametrize(("key", "encoded"), PUBLIC_KEYS)
def test_public_keys_are_written_as_gpg_agent_does(key: PublicKey, encoded: bytes) -> None:
    assert encode_public_key(key) == encoded
    assert parse_public_key(encoded) == key


@pytest.mark.parametrize(
    "encoded",
    [
        b"(10:public-key(3:rsa(1:n1:\x05)))",
        b"(10:public-key(3:rsa(1:e1:\x03)(1:n1:\x05)))",
        b"(10:public-key(3:rsa(1:n1:\x05)(1:e1:\x03)(1:d1:\x03)))",
        b"(10:public-key(3:rsa(1:n1:\x00)(1:e1:\x03)))",
        b"(10:public-key(3:ecc(5:curve9:secp256k1)(1:q1:\x04)))",
        b"(10:public-key(3:ecc(5:curve7:Ed25519)(5:flags5:eddsa)(1:q31:" + bytes(31) + b")))",
        b"(10:public-key(3:elg(1:p1:\x05)(1:g1:\x02)(1:y1:\x03)))",
        b"(11:private-key(3:rsa(1:n1:\x05)(1:e1:\x03)))",
    ],
)
def test_other_layouts_are_no_public_key(encoded: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_public_key(encoded)


ATOMS = st.binary(min_size=1, max_size=40)
LISTS = st.recursive(
    st.lists(ATOMS, max_size=4).map(tuple), lambda inner: st.lists(inner | ATOMS, max_size=4).map(tuple), max_leaves=12
)


@given(LISTS)
def test_any_expression_survives_the_way(expression: tuple[SExpression, ...]) -> None:
    assert parse(encode(expression)) == expression


@given(
    st.lists(st.sampled_from([b"(", b")", b"1:a", b"0:", b"7:sig-val", b"3:rsa", b"1:s", b"9"]) | st.binary(max_size=3))
)
def test_any_bytes_are_an_expression_or_a_remote_error(pieces: list[bytes]) -> None:
    untrusted = b"".join(pieces)
    with contextlib.suppress(RemoteProtocolError):
        assert encode(parse(untrusted)) == untrusted
    for read in (parse_signature, parse_public_key):
        with contextlib.suppress(RemoteProtocolError):
            read(untrusted)
