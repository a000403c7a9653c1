"""Checks a signature with the public key before gpg gets it.

gpg and rpmsign check nothing themselves: a wrong signature would leave them with exit status 0. RSA needs only
`pow`; the rest is checked where `cryptography` can be imported, since the relay ships without compiled packages.

Sources: RFC 8017, 8.2.2 (RSASSA-PKCS1-v1_5); FIPS 186-4, 4.7 and 6.4 (DSA, ECDSA); RFC 8032, 5.1.7 and 5.2.7.
"""

import enum

from agentproxy.protocol.digests import Digest, pkcs1_encoded
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.keys import DsaPublicKey, EccPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.signatures import RsaSignature, Signature

__all__ = ["Verdict", "verify"]


class Verdict(enum.Enum):
    """What became of a check."""

    GOOD = "good"
    BAD = "bad"
    UNCHECKED = "unchecked"  # `cryptography` is not installed here


def verify(public_key: PublicKey, digest: Digest, signature: Signature) -> Verdict:
    """Check `signature` over `digest`. Takes 0.3 ms for RSA-4096, so it may run in the event loop."""
    match public_key:
        case RsaPublicKey():
            return _verify_rsa(public_key, digest, signature)
        case EccPublicKey() | DsaPublicKey():
            return _verify_compiled(public_key, digest, signature)


def _verify_rsa(public_key: RsaPublicKey, digest: Digest, signature: Signature) -> Verdict:
    if not isinstance(signature, RsaSignature):
        return Verdict.BAD
    n = int.from_bytes(public_key.n, "big")
    s = int.from_bytes(signature.s, "big")
    if s >= n:  # RFC 8017, 5.2.2, step 1
        return Verdict.BAD
    size = len(public_key.n)
    try:
        expected = pkcs1_encoded(digest, size)
    except RemoteProtocolError:
        return Verdict.BAD
    block = pow(s, int.from_bytes(public_key.e, "big"), n).to_bytes(size, "big")
    return Verdict.GOOD if block == expected else Verdict.BAD


def _verify_compiled(public_key: EccPublicKey | DsaPublicKey, digest: Digest, signature: Signature) -> Verdict:
    try:
        # Only with the first such signature: the import costs 10 MB, and a runner with RSA keys never needs it.
        from relay.verify_compiled import is_good  # noqa: PLC0415
    except ImportError:
        return Verdict.UNCHECKED
    return Verdict.GOOD if is_good(public_key, digest, signature) else Verdict.BAD
