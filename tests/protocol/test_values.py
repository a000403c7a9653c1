"""Digests, signatures, keys and fields: types that cannot hold a wrong value."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.digests import Digest, HashAlgorithm, pkcs1_encoded
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted, Claims, Head, check_name, check_request_id, check_text
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey, Fingerprint, Keygrip, RsaPublicKey
from agentproxy.protocol.signatures import (
    DsaSignature,
    EcdsaSignature,
    EddsaSignature,
    RsaSignature,
    unsigned,
)

HASHES: dict[HashAlgorithm, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA1: hashes.SHA1(),  # noqa: S303
    HashAlgorithm.SHA224: hashes.SHA224(),
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}


@pytest.mark.parametrize("algorithm", HashAlgorithm)
def test_a_digest_has_the_length_of_its_algorithm(algorithm: HashAlgorithm) -> None:
    size = algorithm.digest_size
    assert Digest(algorithm, bytes(size)).value == bytes(size)
    for wrong in (0, size - 1, size + 1):
        with pytest.raises(RemoteProtocolError):
            Digest(algorithm, bytes(wrong))


def test_the_broken_algorithms_are_the_ones_with_practical_collisions() -> None:
    broken = {algorithm for algorithm in HashAlgorithm if algorithm.is_broken}
    assert broken == {HashAlgorithm.MD5, HashAlgorithm.SHA1, HashAlgorithm.RIPEMD160}


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("algorithm", HASHES)
def test_the_block_of_pkcs1_is_what_a_real_signature_decrypts_to(
    algorithm: HashAlgorithm, rsa_key: rsa.RSAPrivateKey
) -> None:
    signature = rsa_key.sign(b"message", padding.PKCS1v15(), HASHES[algorithm])
    numbers = rsa_key.public_key().public_numbers()
    block = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n).to_bytes(256, "big")
    digest = Digest(algorithm, hashlib.new(algorithm.name, b"message").digest())
    assert pkcs1_encoded(digest, 256) == block


def test_a_modulus_too_small_for_the_digest_is_refused() -> None:
    digest = Digest(HashAlgorithm.SHA512, bytes(64))
    assert len(pkcs1_encoded(digest, 94)) == 94
    with pytest.raises(RemoteProtocolError):
        pkcs1_encoded(digest, 93)


@pytest.mark.parametrize("number", [b"", b"\x00", b"\x00\x01", b"\x01" * 1025])
def test_signature_numbers_have_no_leading_zeros_and_a_bound(number: bytes) -> None:
    for build in (
        RsaSignature,
        lambda value: DsaSignature(value, b"\x01"),
        lambda value: EcdsaSignature(b"\x01", value),
    ):
        with pytest.raises(RemoteProtocolError):
            build(number)


@pytest.mark.parametrize(("r", "s"), [(31, 31), (33, 33), (32, 57), (0, 0), (57, 32), (56, 56), (64, 0)])
def test_eddsa_halves_keep_their_length(r: int, s: int) -> None:
    with pytest.raises(RemoteProtocolError):
        EddsaSignature(bytes(r), bytes(s))


def test_a_dsa_number_of_33_bytes_and_an_ecdsa_number_of_67_are_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        DsaSignature(b"\x01" * 33, b"\x01")
    with pytest.raises(RemoteProtocolError):
        EcdsaSignature(b"\x01" * 67, b"\x01")


@given(st.integers(min_value=1, max_value=1 << 4096))
def test_numbers_become_bytes_and_come_back(number: int) -> None:
    encoded = unsigned(number)
    assert encoded[0] != 0
    assert int.from_bytes(encoded, "big") == number


def test_keygrips_are_read_in_either_case_and_written_in_upper_case() -> None:
    assert str(Keygrip.parse("ab" * 20)) == "AB" * 20
    assert Keygrip.parse("AB" * 20) == Keygrip.parse("ab" * 20)


@pytest.mark.parametrize(
    "text", ["", "AB", "AB" * 19, "AB" * 21, "G" * 40, "AB" * 19 + " A", "AB" * 20 + "\n", "\u0660" * 40]
)
def test_what_is_no_keygrip_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Keygrip.parse(text)
    with pytest.raises(RemoteProtocolError):
        Fingerprint.parse(text)


def test_the_key_id_is_the_end_of_an_old_fingerprint_and_the_start_of_a_new_one() -> None:
    assert Fingerprint(bytes(range(20))).key_id == "0C0D0E0F10111213"
    assert Fingerprint(bytes(range(32))).key_id == "0001020304050607"
    with pytest.raises(RemoteProtocolError):
        Fingerprint(bytes(21))


def test_public_numbers_have_no_leading_zeros_and_a_bound() -> None:
    for number in (b"", b"\x00\x01", b"\x01" * 1025):
        with pytest.raises(RemoteProtocolError):
            RsaPublicKey(number, b"\x03")
        with pytest.raises(RemoteProtocolError):
            DsaPublicKey(b"\x07", b"\x03", number, b"\x01")


@pytest.mark.parametrize("curve", Curve)
def test_a_point_has_the_length_of_its_curve(curve: Curve) -> None:
    size = curve.field_size if curve.is_edwards else 1 + 2 * curve.field_size
    assert EccPublicKey(curve, b"\x04" * size).q == b"\x04" * size
    for wrong in (b"", b"\x04" * (size - 1), b"\x04" * (size + 1)):
        with pytest.raises(RemoteProtocolError):
            EccPublicKey(curve, wrong)
    if not curve.is_edwards:
        with pytest.raises(RemoteProtocolError):
            EccPublicKey(curve, b"\x02" * size)


def test_sizes_are_the_ones_that_people_know() -> None:
    assert RsaPublicKey(b"\x80" + bytes(511), b"\x03").bits == 4096
    assert DsaPublicKey(b"\x80" + bytes(255), b"\x03", b"\x02", b"\x01").bits == 2048
    assert [
        EccPublicKey(c, b"\x04" * (c.field_size if c.is_edwards else 1 + 2 * c.field_size)).bits for c in Curve
    ] == [
        255,
        448,
        256,
        384,
        521,
    ]


@pytest.mark.parametrize("name", ["a", "el9", "modern-2026_1.x+y", "0" * 64])
def test_names(name: str) -> None:
    check_name(name, "name")


@pytest.mark.parametrize("name", ["", ".", "-x", "a/b", "..", "a b", "a\n", "ä", "0" * 65, "$(x)", "a\x00"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        check_name(name, "name")


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n", "g" * 32])
def test_what_is_no_request_id_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        check_request_id(text)


CONTROLS = ["\x00", "\n", "\r", "\t", "\x1b", "\x7f", "\x80", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066", "\ud800"]


@pytest.mark.parametrize("control", CONTROLS)
def test_control_characters_never_get_into_a_record(control: str) -> None:
    text = f"a{control}b"
    for build in (
        lambda: check_text(text, "text"),
        lambda: Claims(user=text),
        lambda: Claims(commands=("gpg", text)),
        lambda: Claims(job={text: ""}),
        lambda: Claims(job={"url": text}),
        lambda: Asserted(runner=text),
        lambda: Asserted(channel=text),
    ):
        with pytest.raises(RemoteProtocolError):
            build()


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63), 10**4000])
def test_numbers_have_bounds_too(number: int) -> None:
    for build in (
        lambda: Claims(uid=number),
        lambda: Claims(pid=number),
        lambda: Head("n", abs(number), bytes(32)),
    ):
        with pytest.raises(RemoteProtocolError):
            build()


@pytest.mark.parametrize("text", ["", "plain", "Ä €", "no\u00a0break", "\u0378 unassigned", "x" * 1024])
def test_other_text_is_kept(text: str) -> None:
    check_text(text, "text")


def test_a_head_names_a_record() -> None:
    for build in (lambda: Head("n", 0, bytes(32)), lambda: Head("n", 1, bytes(31)), lambda: Head("", 1, bytes(32))):
        with pytest.raises(RemoteProtocolError):
            build()
