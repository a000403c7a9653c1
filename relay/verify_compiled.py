"""ECDSA, EdDSA and DSA checks, for hosts that have `cryptography`; `relay.verify` imports this when it needs it."""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, utils

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey
from agentproxy.protocol.signatures import DsaSignature, EcdsaSignature, EddsaSignature, Signature

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


def is_good(public_key: EccPublicKey | DsaPublicKey, digest: Digest, signature: Signature) -> bool:
    """Whether `signature` is the key's own over `digest`; False also when key, algorithm and signature do not fit."""
    try:
        match public_key, signature:
            case EccPublicKey(curve=Curve.ED25519 | Curve.ED448), EddsaSignature():
                _check_eddsa(public_key, digest, signature)
            case EccPublicKey(curve=Curve.P256 | Curve.P384 | Curve.P521), EcdsaSignature():
                _check_ecdsa(public_key, digest, signature)
            case DsaPublicKey(), DsaSignature():
                _check_dsa(public_key, digest, signature)
            case _:
                return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, KeyError):
        return False
    return True


def _check_eddsa(public_key: EccPublicKey, digest: Digest, signature: EddsaSignature) -> None:
    # gpg signs the digest's bytes as the message of pure EdDSA, whatever algorithm made them.
    loader = ed25519.Ed25519PublicKey if public_key.curve is Curve.ED25519 else ed448.Ed448PublicKey
    loader.from_public_bytes(public_key.q).verify(signature.r + signature.s, digest.value)


def _check_ecdsa(public_key: EccPublicKey, digest: Digest, signature: EcdsaSignature) -> None:
    key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[public_key.curve], public_key.q)
    key.verify(_der(signature), digest.value, ec.ECDSA(utils.Prehashed(_HASHES[digest.algorithm])))


def _check_dsa(public_key: DsaPublicKey, digest: Digest, signature: DsaSignature) -> None:
    p, q, g, y = (int.from_bytes(number, "big") for number in (public_key.p, public_key.q, public_key.g, public_key.y))
    key = dsa.DSAPublicNumbers(y, dsa.DSAParameterNumbers(p, q, g)).public_key()
    key.verify(_der(signature), digest.value, utils.Prehashed(_HASHES[digest.algorithm]))


def _der(signature: EcdsaSignature | DsaSignature) -> bytes:
    return utils.encode_dss_signature(int.from_bytes(signature.r, "big"), int.from_bytes(signature.s, "big"))
