"""The software backend: gpg-agent's key files, OpenSSL's arithmetic.

`cryptography` releases the interpreter's lock while OpenSSL works, so two signing threads use two processors.
"""

import functools
from collections.abc import Callable, Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, decode_dss_signature

from agentproxy.protocol.digests import Digest, digest_info
from agentproxy.protocol.errors import BackendError, KeyUnavailableError, RemoteProtocolError
from agentproxy.protocol.keys import Keygrip, PublicKey
from agentproxy.protocol.signatures import (
    DsaSignature,
    EcdsaSignature,
    EddsaSignature,
    RsaSignature,
    Signature,
    unsigned,
)
from agentproxy.signer.secretkey import PrivateKey, SecretKey
from agentproxy.signer.strength import smallest_digest
from agentproxy.signer.verify import prehashed

__all__ = ["SoftwareBackend"]


class SoftwareBackend:
    """A `Backend` over unlocked keys.

    Args:
        keys: as `keyfile.load` gives them, under their keygrips.
    """

    def __init__(self, keys: Mapping[Keygrip, SecretKey]) -> None:
        self._keys = dict(keys)
        self._signers = {keygrip: _signer(key.private) for keygrip, key in keys.items()}

    def keygrips(self) -> frozenset[Keygrip]:
        """The keys that are here."""
        return frozenset(self._keys)

    def public_key(self, keygrip: Keygrip) -> PublicKey:
        """The public half of a key; KeyUnavailableError when it is not here."""
        return self._key(keygrip).public

    def sign(self, keygrip: Keygrip, digest: Digest) -> Signature:
        """Sign the digest in the calling thread; errors as in `Backend.sign`."""
        key = self._key(keygrip)
        least = smallest_digest(key.public)
        if len(digest.value) < least:
            raise KeyUnavailableError(
                f"key {keygrip} signs digests of at least {least} bytes, not {digest.algorithm.name}"
            )
        try:
            return self._signers[keygrip](digest)
        except (ValueError, UnsupportedAlgorithm, RemoteProtocolError) as error:
            raise BackendError(f"OpenSSL did not sign with key {keygrip}: {type(error).__name__}") from error

    def _key(self, keygrip: Keygrip) -> SecretKey:
        try:
            return self._keys[keygrip]
        except KeyError:
            raise KeyUnavailableError(f"no secret key {keygrip}") from None


def _signer(key: PrivateKey) -> Callable[[Digest], Signature]:
    """What signs with this key; its kind is asked once."""
    if isinstance(key, rsa.RSAPrivateKey):
        return functools.partial(_sign_rsa, key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return functools.partial(_sign_ecdsa, key)
    if isinstance(key, dsa.DSAPrivateKey):
        return functools.partial(_sign_dsa, key)
    return functools.partial(_sign_eddsa, key)


def _sign_rsa(key: rsa.RSAPrivateKey, digest: Digest) -> Signature:
    return RsaSignature(key.sign(digest_info(digest), padding.PKCS1v15(), NoDigestInfo()).lstrip(b"\x00"))


def _sign_ecdsa(key: ec.EllipticCurvePrivateKey, digest: Digest) -> Signature:
    # OpenSSL takes the leftmost bits of a digest that is longer than the curve's order, as gpg-agent does.
    r, s = decode_dss_signature(key.sign(digest.value, ec.ECDSA(prehashed(digest))))
    return EcdsaSignature(unsigned(r), unsigned(s))


def _sign_dsa(key: dsa.DSAPrivateKey, digest: Digest) -> Signature:
    r, s = decode_dss_signature(key.sign(digest.value, prehashed(digest)))
    return DsaSignature(unsigned(r), unsigned(s))


def _sign_eddsa(key: ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey, digest: Digest) -> Signature:
    # EdDSA hashes its input again: for OpenPGP the digest is the message.
    octets = key.sign(digest.value)
    half = len(octets) // 2
    return EddsaSignature(octets[:half], octets[half:])
