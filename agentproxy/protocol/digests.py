"""Hash algorithms by their OpenPGP numbers, and digests that fit them.

Sources: RFC 9580, 9.5 (numbers, and the DigestInfo prefixes of 5.2.2); RFC 8017, 9.2 (EMSA-PKCS1-v1_5).
"""

import enum

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = ["Digest", "HashAlgorithm", "digest_info", "pkcs1_encoded"]


class HashAlgorithm(enum.IntEnum):
    """The OpenPGP number of a hash algorithm; libgcrypt uses the same numbers, so SETHASH does too."""

    MD5 = 1
    SHA1 = 2
    RIPEMD160 = 3
    SHA256 = 8
    SHA384 = 9
    SHA512 = 10
    SHA224 = 11

    @property
    def digest_size(self) -> int:
        """Length of a digest in bytes."""
        return _SIZES[self]

    @property
    def is_broken(self) -> bool:
        """Whether collisions are practical, so that only a key's own rule may allow the algorithm."""
        return self in _BROKEN


_SIZES = {
    HashAlgorithm.MD5: 16,
    HashAlgorithm.SHA1: 20,
    HashAlgorithm.RIPEMD160: 20,
    HashAlgorithm.SHA224: 28,
    HashAlgorithm.SHA256: 32,
    HashAlgorithm.SHA384: 48,
    HashAlgorithm.SHA512: 64,
}
_BROKEN = frozenset({HashAlgorithm.MD5, HashAlgorithm.SHA1, HashAlgorithm.RIPEMD160})

_DIGEST_INFO = {
    HashAlgorithm.MD5: bytes.fromhex("3020300c06082a864886f70d020505000410"),
    HashAlgorithm.SHA1: bytes.fromhex("3021300906052b0e03021a05000414"),
    HashAlgorithm.RIPEMD160: bytes.fromhex("3021300906052b2403020105000414"),
    HashAlgorithm.SHA224: bytes.fromhex("302d300d06096086480165030402040500041c"),
    HashAlgorithm.SHA256: bytes.fromhex("3031300d060960864801650304020105000420"),
    HashAlgorithm.SHA384: bytes.fromhex("3041300d060960864801650304020205000430"),
    HashAlgorithm.SHA512: bytes.fromhex("3051300d060960864801650304020305000440"),
}


@frozen
class Digest:
    """What is to be signed: the output of a hash algorithm, of exactly that algorithm's length.

    Raises:
        RemoteProtocolError: `value` does not have `algorithm.digest_size` bytes.
    """

    algorithm: HashAlgorithm
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != _SIZES[self.algorithm]:
            raise RemoteProtocolError(
                f"a {self.algorithm.name} digest has {self.algorithm.digest_size} bytes, got {len(self.value)}"
            )


def digest_info(digest: Digest) -> bytes:
    """The DER encoding that says which hash algorithm made the digest (RFC 8017, 9.2, note 1)."""
    return _DIGEST_INFO[digest.algorithm] + digest.value


def pkcs1_encoded(digest: Digest, size: int) -> bytes:
    """EMSA-PKCS1-v1_5: the block of `size` bytes that an RSA signature over `digest` must decrypt to.

    Raises:
        RemoteProtocolError: `size` is too small for the digest (RFC 8017, 9.2, step 3).
    """
    info = digest_info(digest)
    if size < len(info) + 11:
        raise RemoteProtocolError(f"a modulus of {size} bytes cannot hold a {digest.algorithm.name} digest")
    return b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
