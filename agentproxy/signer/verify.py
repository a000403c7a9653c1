"""Checks a signature with the public key before anybody gets it.

One wrong RSA-CRT signature factors the modulus, and a wrong EdDSA one can give the key away; so a fault of memory,
processor or device must end here. OpenSSL makes an Ed25519 signature, and libsodium checks it.
"""

import functools
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from agentproxy.protocol.digests import Digest, HashAlgorithm, digest_info
from agentproxy.protocol.errors import BackendError, KeyUnavailableError
from agentproxy.protocol.keys import Curve, DsaPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.signatures import DsaSignature, EcdsaSignature, EddsaSignature, RsaSignature, Signature
from agentproxy.runtime.sodium import SodiumKey
from agentproxy.signer.secretkey import ECDSA_CURVES

__all__ = ["check", "prehashed"]

_HASHES: dict[HashAlgorithm, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA224: hashes.SHA224(),
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}


def prehashed(digest: Digest) -> Prehashed:
    """What tells `cryptography` that a DSA or ECDSA input is a digest already.

    Raises:
        KeyUnavailableError: these kinds of key do not sign that hash algorithm.
    """
    algorithm = _HASHES.get(digest.algorithm)
    if algorithm is None:
        raise KeyUnavailableError(f"{digest.algorithm.name} is for RSA keys only")
    return Prehashed(algorithm)


def check(public_key: PublicKey, digest: Digest, signature: Signature) -> None:
    """Raise BackendError unless `signature` is the key's over `digest`. It blocks for a fraction of a millisecond."""
    try:
        _checker(public_key)(digest, signature)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise BackendError(
            f"the signature made by key {public_key.keygrip} is wrong: a fault in memory, processor or device"
        ) from error


@functools.lru_cache(maxsize=256)
def _checker(key: PublicKey) -> Callable[[Digest, Signature], None]:
    """What checks signatures of this key; it raises InvalidSignature, UnsupportedAlgorithm or ValueError."""
    if isinstance(key, RsaPublicKey):
        numbers = rsa.RSAPublicNumbers(int.from_bytes(key.e, "big"), int.from_bytes(key.n, "big"))
        return functools.partial(_check_rsa, numbers.public_key(), len(key.n))
    if isinstance(key, DsaPublicKey):
        p, q, g, y = (int.from_bytes(value, "big") for value in (key.p, key.q, key.g, key.y))
        parameters = dsa.DSAParameterNumbers(p, q, g)
        return functools.partial(_check_dsa, dsa.DSAPublicNumbers(y, parameters).public_key())
    if key.curve is Curve.ED25519:
        return functools.partial(_check_eddsa, SodiumKey(key.q))
    if key.curve is Curve.ED448:
        return functools.partial(_check_eddsa, ed448.Ed448PublicKey.from_public_bytes(key.q))
    return functools.partial(
        _check_ecdsa, ec.EllipticCurvePublicKey.from_encoded_point(ECDSA_CURVES[key.curve](), key.q)
    )


def _check_rsa(key: rsa.RSAPublicKey, size: int, digest: Digest, signature: Signature) -> None:
    if not isinstance(signature, RsaSignature):
        raise InvalidSignature
    padded = signature.s.rjust(size, b"\x00")
    if key.recover_data_from_signature(padded, padding.PKCS1v15(), None) != digest_info(digest):
        raise InvalidSignature


def _check_dsa(key: dsa.DSAPublicKey, digest: Digest, signature: Signature) -> None:
    if not isinstance(signature, DsaSignature):
        raise InvalidSignature
    key.verify(_der(signature.r, signature.s), digest.value, prehashed(digest))


def _check_ecdsa(key: ec.EllipticCurvePublicKey, digest: Digest, signature: Signature) -> None:
    if not isinstance(signature, EcdsaSignature):
        raise InvalidSignature
    key.verify(_der(signature.r, signature.s), digest.value, ec.ECDSA(prehashed(digest)))


def _check_eddsa(key: SodiumKey | ed448.Ed448PublicKey, digest: Digest, signature: Signature) -> None:
    if not isinstance(signature, EddsaSignature):
        raise InvalidSignature
    key.verify(signature.r + signature.s, digest.value)


def _der(r: bytes, s: bytes) -> bytes:
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
