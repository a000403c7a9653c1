"""Checks a signature with the public key before gpg gets it.

gpg and rpmsign check nothing themselves: a wrong signature would leave them with exit status 0. RSA needs only
`pow`; the rest is checked where `cryptography` can be imported, since the relay ships without compiled packages, and
Ed25519 also where PyNaCl can. A relay that signs much imports `cryptography` for RSA too, where it takes an eighth of
the time.

Sources: RFC 8017, 8.2.2 (RSASSA-PKCS1-v1_5); FIPS 186-4, 4.7 and 6.4 (DSA, ECDSA); RFC 8032, 5.1.7 and 5.2.7.
"""

import enum
import logging
import threading
from collections.abc import Callable

from agentproxy.protocol.digests import Digest, pkcs1_encoded
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.keys import Curve, EccPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.signatures import RsaSignature, Signature

__all__ = ["Verdict", "Verifier"]

logger = logging.getLogger(__name__)

# The import costs 10 MB and, beside the event loop, a tenth of a second: not for a runner that signs now and then.
RSA_CHECKS_BEFORE_IMPORT = 16
# Bytes. gpg takes 65537, and OpenSSL nothing above 64 bits for large keys: one as long as its modulus, of an oracle
# that was taken over, would stop the event loop for a second at each signature.
_MAX_EXPONENT = 8


class Verdict(enum.Enum):
    """What became of a check."""

    GOOD = "good"
    BAD = "bad"
    UNCHECKED = "unchecked"  # neither `cryptography` is installed here, nor what would do for this key


class Verifier:
    """Checks signatures; one for the life of a relay."""

    def __init__(self) -> None:
        self._compiled: Callable[[PublicKey, Digest, Signature], bool] | None = None
        self._ed25519: Callable[[EccPublicKey, Digest, Signature], bool] | None = None
        self._rsa_checks = 0

    def verify(self, public_key: PublicKey, digest: Digest, signature: Signature) -> Verdict:
        """Check `signature` over `digest`. Takes 0.1 to 0.5 ms, so it may run in the event loop."""
        if isinstance(public_key, EccPublicKey) and public_key.curve is Curve.ED25519:
            check = self._ed25519 or self._load_ed25519()
            if check is not None:
                return Verdict.GOOD if check(public_key, digest, signature) else Verdict.BAD
        if isinstance(public_key, RsaPublicKey) and len(public_key.e) > _MAX_EXPONENT:
            return Verdict.BAD
        compiled = self._compiled
        if compiled is None and isinstance(public_key, RsaPublicKey):
            self._rsa_checks += 1
            if self._rsa_checks == RSA_CHECKS_BEFORE_IMPORT:
                threading.Thread(target=self._load, name="loading-cryptography").start()
            return _verify_rsa(public_key, digest, signature)
        if compiled is None:
            compiled = self._load()
        if compiled is None:
            return Verdict.UNCHECKED
        return Verdict.GOOD if compiled(public_key, digest, signature) else Verdict.BAD

    def _load_ed25519(self) -> Callable[[EccPublicKey, Digest, Signature], bool] | None:
        try:
            from relay.verify_sodium import is_good  # noqa: PLC0415  as in `_load`
        except ImportError:
            logger.debug("PyNaCl cannot be imported here")
            self._ed25519 = check = self._load()
            return check
        self._ed25519 = is_good
        return is_good

    def _load(self) -> Callable[[PublicKey, Digest, Signature], bool] | None:
        try:
            # Not before it is needed: a relay at rest would take half as much memory again.
            from relay.verify_compiled import is_good  # noqa: PLC0415
        except ImportError:
            logger.debug("cryptography cannot be imported here")
            return None
        self._compiled = is_good
        return is_good


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
