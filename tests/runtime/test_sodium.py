"""libsodium's check of Ed25519, against OpenSSL's signatures."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.runtime.sodium import SodiumKey

_ORDER = 2**252 + 27742317777372353535851937790883648493  # RFC 8032, 5.1


@given(secret=st.binary(min_size=32, max_size=32), message=st.binary(max_size=200), bit=st.integers(0, 511))
def test_what_openssl_signs_is_good_and_with_any_bit_turned_it_is_not(secret: bytes, message: bytes, bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(secret)
    key, signature = SodiumKey(private.public_key().public_bytes_raw()), private.sign(message)
    key.verify(signature, message)
    turned = (int.from_bytes(signature, "little") ^ 1 << bit).to_bytes(64, "little")
    for wrong, about in ((turned, message), (signature, message + b"\0"), (signature, b"\0" + message)):
        with pytest.raises(ValueError, match="wrong"):
            key.verify(wrong, about)


def test_another_form_of_the_same_signature_is_refused() -> None:
    private = Ed25519PrivateKey.generate()
    signature = private.sign(b"package")
    s = (int.from_bytes(signature[32:], "little") + _ORDER).to_bytes(32, "little")
    with pytest.raises(ValueError, match="wrong"):
        SodiumKey(private.public_key().public_bytes_raw()).verify(signature[:32] + s, b"package")


def test_a_key_with_which_anything_verifies_is_refused() -> None:
    neutral = b"\x01" + bytes(31)
    with pytest.raises(ValueError, match="wrong"):
        SodiumKey(neutral).verify(neutral + bytes(32), b"package")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused_before_libsodium_reads_it(size: int) -> None:
    with pytest.raises(ValueError, match="has 32 bytes"):
        SodiumKey(bytes(size))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_no_part_of_a_signature_is_taken_for_the_message(size: int) -> None:
    with pytest.raises(ValueError, match="has 64 bytes"):
        SodiumKey(b"\x01" + bytes(31)).verify(bytes(size), b"package")
