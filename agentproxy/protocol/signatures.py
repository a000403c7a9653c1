"""Raw signatures: the numbers, as every backend gives them and every boundary carries them.

RSA, DSA and ECDSA numbers are big-endian without leading zero octets: gpg accepts a padded number, gpgv-sq
and rpm 4.20 do not. EdDSA halves keep their full length, as RFC 8032 writes them.
"""

from typing import ClassVar

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = ["DsaSignature", "EcdsaSignature", "EddsaSignature", "RsaSignature", "Signature", "unsigned"]

_MAX_RSA = 1024  # bytes: RSA-8192, twice of what we serve
_MAX_DSA = 32  # bytes: q of DSA-3072 has 256 bits
_MAX_ECDSA = 66  # bytes: P-521
_EDDSA_HALVES = frozenset({32, 57})  # bytes: Ed25519, Ed448 (RFC 8032, 5.1 and 5.2)


def unsigned(number: int) -> bytes:
    """Big-endian octets of `number` (> 0) without leading zero octets."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _check_number(name: str, value: bytes, longest: int) -> None:
    if not value or value[0] == 0 or len(value) > longest:
        raise RemoteProtocolError(
            f"signature number {name}: expected 1 to {longest} bytes without leading zeros, got {len(value)}"
        )


@frozen
class RsaSignature:
    """`s` of RSASSA-PKCS1-v1_5."""

    algorithm: ClassVar[str] = "rsa"
    s: bytes

    def __post_init__(self) -> None:
        _check_number("s", self.s, _MAX_RSA)


@frozen
class DsaSignature:
    """`r` and `s` of FIPS 186-4."""

    algorithm: ClassVar[str] = "dsa"
    r: bytes
    s: bytes

    def __post_init__(self) -> None:
        _check_number("r", self.r, _MAX_DSA)
        _check_number("s", self.s, _MAX_DSA)


@frozen
class EcdsaSignature:
    """`r` and `s` of ECDSA over a NIST curve."""

    algorithm: ClassVar[str] = "ecdsa"
    r: bytes
    s: bytes

    def __post_init__(self) -> None:
        _check_number("r", self.r, _MAX_ECDSA)
        _check_number("s", self.s, _MAX_ECDSA)


@frozen
class EddsaSignature:
    """The two halves of an Ed25519 (2 x 32 bytes) or Ed448 (2 x 57 bytes) signature."""

    algorithm: ClassVar[str] = "eddsa"
    r: bytes
    s: bytes

    def __post_init__(self) -> None:
        if len(self.r) not in _EDDSA_HALVES or len(self.s) != len(self.r):
            raise RemoteProtocolError(
                f"EdDSA halves: expected twice 32 or 57 bytes, got {len(self.r)} and {len(self.s)}"
            )


Signature = RsaSignature | DsaSignature | EcdsaSignature | EddsaSignature
