"""OpenPGP signatures from their parts, byte by byte as gpg verified them."""

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey, Fingerprint, PublicKey, RsaPublicKey
from agentproxy.protocol.openpgp import DocumentSignature, algorithm_of, trailer
from agentproxy.protocol.signatures import EddsaSignature

# gpg 2.4.7 made the key, and says that this is its good signature of `hello`; the first half begins with a zero octet.
FINGERPRINT = Fingerprint.parse("4F7EE7249DFD31CB941FE22861F87898EEC6BD3C40865B02F3DCA2D1BB75E118")
POINT = bytes.fromhex(
    "37343431ffcc00bcac5e81a7a49f9a49c8f7e1af79812019555a10d7dc892d37e3b024aeb271292fcd6f672a87e9e8a5f29ea654d921359780"
)
PACKET = bytes.fromhex(
    "c2b30400160a00292221054f7ee7249dfd31cb941fe22861f87898eec6bd3c40865b02f3dca2d1bb75e11805026b07fd3f000a09104f7ee7249d"
    "fd31cbf5ab01c800e15f7e46af9568fde010a979a587a9568efa04b8d0de41877d7686fd37277d2df118ba5d95e766c1d4080e12abd6c61210c5"
    "c6974a1c8b0001c767780c2c2f1d45030726a989494e10f78f14b2df4ae0d306fffa24d418b1b3e2f62767897add88293fd679feeaca44fa22cd"
    "762fbffd601e00"
)
R, S = PACKET[-116:-59], PACKET[-57:]
CREATED = datetime.fromtimestamp(0x6B07FD3F, UTC)
ED448 = EccPublicKey(Curve.ED448, POINT)
ED25519 = EccPublicKey(Curve.ED25519, bytes(32))
P384 = EccPublicKey(Curve.P384, b"\x04" + bytes(96))
RSA = RsaPublicKey(b"\x01" * 256, b"\x03")
DSA = DsaPublicKey(*[b"\x01"] * 4)
V4, V5 = Fingerprint(bytes(20)), Fingerprint(bytes(32))


def test_an_ed448_signature_is_as_gpg_2_4_verifies_it() -> None:
    end = trailer(algorithm_of(ED448, FINGERPRINT), HashAlgorithm.SHA512, FINGERPRINT, CREATED)
    digest = Digest(HashAlgorithm.SHA512, hashlib.sha512(b"hello" + end).digest())
    Ed448PublicKey.from_public_bytes(POINT).verify(R + S, digest.value)
    assert R[0] == 0
    made = DocumentSignature(FINGERPRINT, CREATED, digest, EddsaSignature(R, S))
    assert made.packet == PACKET
    assert made.trailer == end
    assert made.key_id == "4F7EE7249DFD31CB"


@pytest.mark.parametrize(("key", "number"), [(RSA, 1), (DSA, 17), (P384, 19), (ED25519, 22)])
def test_each_kind_of_key_has_its_number_and_its_version(key: PublicKey, number: int) -> None:
    assert algorithm_of(key, V4) == number
    with pytest.raises(RemoteProtocolError, match="version 4 keys"):
        algorithm_of(key, V5)


def test_ed448_is_for_version_5_keys() -> None:
    assert algorithm_of(ED448, V5) == 22
    with pytest.raises(RemoteProtocolError, match="version 5 keys"):
        algorithm_of(ED448, V4)
