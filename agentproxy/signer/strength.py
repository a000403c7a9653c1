"""Which keys are strong enough to serve, and which digests are long enough for a key.

Sources: RFC 9580, 5.2.3.2 to 5.2.3.5 (least digest for each kind of key) and 12 (sizes).
"""

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import KeyUnavailableError
from agentproxy.protocol.keys import Curve, DsaPublicKey, PublicKey, RsaPublicKey

__all__ = ["OTHER_KEY_HINT", "check_strength", "default_algorithms", "smallest_digest"]

OTHER_KEY_HINT = "add a signing subkey that is served: gpg --quick-add-key FINGERPRINT rsa4096 sign"
_RSA_BITS = (2048, 4096)
_DSA_BITS = (2048, 3072)
# P-521 takes the longest digest that there is.
_CURVE_DIGEST = {Curve.ED25519: 32, Curve.ED448: 64, Curve.P256: 32, Curve.P384: 48, Curve.P521: 64}


def check_strength(key: PublicKey) -> None:
    """Raise KeyUnavailableError unless the key's size is one that we serve."""
    if isinstance(key, RsaPublicKey | DsaPublicKey):
        least, most = _RSA_BITS if isinstance(key, RsaPublicKey) else _DSA_BITS
        if not least <= key.bits <= most:
            reason = f"{key.algorithm.upper()} key of {key.bits} bits: expected {least} to {most}"
            raise KeyUnavailableError(reason, OTHER_KEY_HINT)


def smallest_digest(key: PublicKey) -> int:
    """Length in bytes of the shortest digest that may be signed with the key (RSA's rule is the keys file's)."""
    if isinstance(key, RsaPublicKey):
        return HashAlgorithm.MD5.digest_size
    if isinstance(key, DsaPublicKey):
        return len(key.q)
    return _CURVE_DIGEST[key.curve]


def default_algorithms(key: PublicKey) -> tuple[HashAlgorithm, ...]:
    """The hash algorithms for a key of which nobody said more: SHA-2, as long as the key asks for."""
    usual = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
    return tuple(algorithm for algorithm in usual if algorithm.digest_size >= smallest_digest(key))
