"""Ed25519 checked by libsodium: in half of the time that OpenSSL takes, and by other code than what signed.

What OpenSSL does wrong in some rare case, its own check may well find right; libsodium shares nothing with it. It is
also the stricter of the two: it refuses keys and points of small order, which no honest signer makes. A module of its
own since not every relay has PyNaCl.
"""

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

__all__ = ["SodiumKey"]


class SodiumKey:
    """A public key that checks as `cryptography`'s keys do, but for its error.

    Args:
        key: 32 bytes, as RFC 8032, 5.1.2 has them.

    Raises:
        ValueError: another length.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:  # libsodium reads as many, whatever there is
            raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(key)}")
        self._key = key

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise ValueError unless `signature` (64 bytes) is the key's over `message`."""
        if len(signature) != 64:  # before it is joined to the message, where its end would move
            raise ValueError(f"an Ed25519 signature has 64 bytes, not {len(signature)}")
        try:
            crypto_sign_open(signature + message, self._key)
        except CryptoError as error:
            raise ValueError("libsodium finds the signature wrong") from error
