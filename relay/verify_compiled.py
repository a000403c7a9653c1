"""Checks for hosts that have `cryptography`; `relay.verify` imports this when it needs it.

Ed25519 is checked by libsodium where PyNaCl is there too.
"""

import functools
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, utils

from agentproxy.protocol.digests import Digest, HashAlgorithm, digest_info
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.signatures import DsaSignature, EcdsaSignature, EddsaSignature, RsaSignature, Signature
from agentproxy.protocol.values import frozen

__all__ = ["is_good"]

_CURVES: dict[Curve, ec.EllipticCurve] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
}
# SHA-1 only matters where the keys file names it for a legacy key; RIPEMD-160 and MD5 have no place here at all.
_HASHES: dict[HashAlgorithm, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA1: hashes.SHA1(),  # noqa: S303  verified, never made
    HashAlgorithm.SHA224: hashes.SHA224(),
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}


@frozen
class _EddsaKey:
    verify: Callable[[bytes, bytes], None]  # signature, message; raises InvalidSignature or ValueError


_Loaded = rsa.RSAPublicKey | dsa.DSAPublicKey | ec.EllipticCurvePublicKey | _EddsaKey


def is_good(public_key: PublicKey, digest: Digest, signature: Signature) -> bool:
    """Whether `signature` is the key's own over `digest`; False also when key, algorithm and signature do not fit."""
    try:
        _check(_loaded(public_key), digest, signature)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, KeyError):
        return False
    return True


@functools.lru_cache(maxsize=64)
def _loaded(key: PublicKey) -> _Loaded:
    match key:
        case RsaPublicKey():
            return rsa.RSAPublicNumbers(_number(key.e), _number(key.n)).public_key()
        case DsaPublicKey():
            parameters = dsa.DSAParameterNumbers(_number(key.p), _number(key.q), _number(key.g))
            return dsa.DSAPublicNumbers(_number(key.y), parameters).public_key()
        case EccPublicKey(curve=Curve.ED25519):
            return _EddsaKey(_ed25519_check(key.q))
        case EccPublicKey(curve=Curve.ED448):
            return _EddsaKey(ed448.Ed448PublicKey.from_public_bytes(key.q).verify)
        case EccPublicKey():
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[key.curve], key.q)


def _ed25519_check(key: bytes) -> Callable[[bytes, bytes], None]:
    try:
        from agentproxy.runtime.sodium import SodiumKey  # noqa: PLC0415  not every runner has PyNaCl
    except ImportError:
        return ed25519.Ed25519PublicKey.from_public_bytes(key).verify
    return SodiumKey(key).verify


def _check(key: _Loaded, digest: Digest, signature: Signature) -> None:
    match key, signature:
        case rsa.RSAPublicKey(), RsaSignature(s):
            padded = s.rjust((key.key_size + 7) // 8, b"\x00")
            if key.recover_data_from_signature(padded, padding.PKCS1v15(), None) != digest_info(digest):
                raise InvalidSignature
        case _EddsaKey(verify), EddsaSignature(r, s):
            # gpg signs the digest's bytes as the message of pure EdDSA, whatever algorithm made them.
            verify(r + s, digest.value)
        case ec.EllipticCurvePublicKey(), EcdsaSignature(r, s):
            key.verify(_der(r, s), digest.value, ec.ECDSA(utils.Prehashed(_HASHES[digest.algorithm])))
        case dsa.DSAPublicKey(), DsaSignature(r, s):
            key.verify(_der(r, s), digest.value, utils.Prehashed(_HASHES[digest.algorithm]))
        case _:
            raise InvalidSignature


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


def _der(r: bytes, s: bytes) -> bytes:
    return utils.encode_dss_signature(_number(r), _number(s))
