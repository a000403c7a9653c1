"""Names of keys, and public keys as numbers.

A keygrip names a key pair, whatever certificate it stands in; a fingerprint names an OpenPGP key. The keygrip
formulas are libgcrypt's (cipher/rsa.c, dsa.c, ecc.c: `compute_keygrip`).
"""

import enum
import hashlib
import re
from dataclasses import dataclass
from typing import ClassVar, Self

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.signatures import unsigned
from agentproxy.protocol.values import frozen

__all__ = [
    "Curve",
    "DsaPublicKey",
    "EccPublicKey",
    "Fingerprint",
    "Keygrip",
    "PublicKey",
    "RsaPublicKey",
]

_KEYGRIP = re.compile(r"[0-9A-Fa-f]{40}")
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Keygrip:
    """SHA-1 of a key pair's public parameters: 20 bytes, written as 40 upper-case hex digits."""

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != 20:
            raise RemoteProtocolError(f"a keygrip has 20 bytes, got {len(self.value)}")

    @classmethod
    def parse(cls, untrusted: str) -> Self:
        """Read 40 hex digits of either case.

        Raises:
            RemoteProtocolError: anything else.
        """
        if _KEYGRIP.fullmatch(untrusted) is None:
            raise RemoteProtocolError("a keygrip has 40 hex digits")
        return cls(bytes.fromhex(untrusted))

    def __str__(self) -> str:
        return self.value.hex().upper()


@dataclass(frozen=True, slots=True, order=True)
class Fingerprint:
    """An OpenPGP key's fingerprint: 20 bytes (v4) or 32 bytes (v6), written in upper-case hex."""

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) not in {20, 32}:
            raise RemoteProtocolError(f"a fingerprint has 20 or 32 bytes, got {len(self.value)}")

    @classmethod
    def parse(cls, untrusted: str) -> Self:
        """Read 40 or 64 hex digits of either case.

        Raises:
            RemoteProtocolError: anything else.
        """
        if _FINGERPRINT.fullmatch(untrusted) is None:
            raise RemoteProtocolError("a fingerprint has 40 or 64 hex digits")
        return cls(bytes.fromhex(untrusted))

    @property
    def key_id(self) -> str:
        """The 64-bit key id, 16 upper-case hex digits (RFC 9580, 5.5.4)."""
        octets = self.value[-8:] if len(self.value) == 20 else self.value[:8]
        return octets.hex().upper()

    def __str__(self) -> str:
        return self.value.hex().upper()


class Curve(enum.Enum):
    """The curves that we serve, by the names that gpg-agent writes into key files and READKEY replies."""

    ED25519 = "Ed25519"
    ED448 = "Ed448"
    P256 = "NIST P-256"
    P384 = "NIST P-384"
    P521 = "NIST P-521"

    @property
    def field_size(self) -> int:
        """Bytes of one coordinate; for Edwards curves bytes of the compressed point."""
        return _FIELD_SIZES[self]

    @property
    def is_edwards(self) -> bool:
        """Whether signatures over this curve are EdDSA."""
        return self in {Curve.ED25519, Curve.ED448}


_FIELD_SIZES = {Curve.ED25519: 32, Curve.ED448: 57, Curve.P256: 32, Curve.P384: 48, Curve.P521: 66}


@frozen
class RsaPublicKey:
    """Modulus and exponent, big-endian without leading zero octets."""

    algorithm: ClassVar[str] = "rsa"
    n: bytes
    e: bytes

    def __post_init__(self) -> None:
        _check_numbers(self.n, self.e)

    @property
    def bits(self) -> int:
        """Length of the modulus in bits."""
        return int.from_bytes(self.n, "big").bit_length()

    @property
    def keygrip(self) -> Keygrip:
        """SHA-1 over the modulus as a signed number; the exponent does not count."""
        return Keygrip(_sha1(_signed(self.n)))


@frozen
class DsaPublicKey:
    """FIPS 186-4 domain parameters and public value, big-endian without leading zero octets."""

    algorithm: ClassVar[str] = "dsa"
    p: bytes
    q: bytes
    g: bytes
    y: bytes

    def __post_init__(self) -> None:
        _check_numbers(self.p, self.q, self.g, self.y)

    @property
    def bits(self) -> int:
        """Length of p in bits."""
        return int.from_bytes(self.p, "big").bit_length()

    @property
    def keygrip(self) -> Keygrip:
        """SHA-1 over p, q, g and y as one-element lists of signed numbers."""
        pairs = (("p", self.p), ("q", self.q), ("g", self.g), ("y", self.y))
        return Keygrip(_sha1(b"".join(_element(name, _signed(value)) for name, value in pairs)))


@frozen
class EccPublicKey:
    """A point on one of our curves.

    `q` is 04||X||Y for NIST curves; for Edwards curves it is the compressed point of RFC 8032 without
    OpenPGP's 0x40 prefix: 32 bytes (Ed25519) or 57 bytes (Ed448).
    """

    algorithm: ClassVar[str] = "ecc"
    curve: Curve
    q: bytes

    def __post_init__(self) -> None:
        size = self.curve.field_size
        fits = len(self.q) == size if self.curve.is_edwards else len(self.q) == 1 + 2 * size and self.q[0] == 4
        if not fits:
            raise RemoteProtocolError(f"not a point on {self.curve.value}: {len(self.q)} bytes")

    @property
    def bits(self) -> int:
        """The curve's size as its name gives it."""
        return {Curve.ED25519: 255, Curve.ED448: 448, Curve.P256: 256, Curve.P384: 384}.get(self.curve, 521)

    @property
    def keygrip(self) -> Keygrip:
        """SHA-1 over the domain parameters p, a, b, g, n and the point q."""
        return Keygrip(_sha1(_CURVE_PARAMETERS[self.curve] + _element("q", self.q)))


PublicKey = RsaPublicKey | DsaPublicKey | EccPublicKey


def _check_numbers(*numbers: bytes) -> None:
    for number in numbers:
        if not number or number[0] == 0 or len(number) > 1024:
            raise RemoteProtocolError("a key parameter has 1 to 1024 bytes without leading zeros")


def _sha1(value: bytes) -> bytes:
    return hashlib.sha1(value, usedforsecurity=False).digest()


def _signed(number: bytes) -> bytes:
    """Libgcrypt's standard format: a zero octet goes before a number whose top bit is set."""
    return b"\x00" + number if number[0] & 0x80 else number


def _element(name: str, value: bytes) -> bytes:
    return b"(%d:%s%d:%s)" % (len(name), name.encode(), len(value), value)


def _curve_parameters(p: int, a: int, b: int, g: bytes, n: int) -> bytes:
    elements = (("p", unsigned(p)), ("a", unsigned(a)), ("b", unsigned(b)), ("g", g), ("n", unsigned(n)))
    return b"".join(_element(name, value) for name, value in elements)


def _point(x: int, y: int, size: int) -> bytes:
    return b"\x04" + x.to_bytes(size, "big") + y.to_bytes(size, "big")


# Domain parameters: FIPS 186-4, D.1.2 (NIST curves); RFC 7748, 4.1 and 4.2, RFC 8032, 5.1 and 5.2 (Edwards).
# Libgcrypt hashes what its table of curves holds, without the sign: a of Ed25519 is -1 there and counts as 1, its b
# is negative too; b of Ed448 is p - 39081.
_CURVE_PARAMETERS = {
    Curve.ED25519: _curve_parameters(
        2**255 - 19,
        1,
        0x2DFC9311D490018C7338BF8688861767FF8FF5B2BEBE27548A14B235ECA6874A,
        _point(
            0x216936D3CD6E53FEC0A4E231FDD6DC5C692CC7609525A7B2C9562D608F25D51A,
            0x6666666666666666666666666666666666666666666666666666666666666658,
            32,
        ),
        2**252 + 27742317777372353535851937790883648493,
    ),
    Curve.ED448: _curve_parameters(
        2**448 - 2**224 - 1,
        1,
        2**448 - 2**224 - 1 - 39081,
        _point(
            0x4F1970C66BED0DED221D15A622BF36DA9E146570470F1767EA6DE324A3D3A46412AE1AF72AB66511433B80E18B00938E2626A82BC70CC05E,
            0x693F46716EB6BC248876203756C9C7624BEA73736CA3984087789C1E05A0C2D73AD3FF1CE67C39C4FDBD132C4ED7C8AD9808795BF230FA14,
            56,
        ),
        2**446 - 13818066809895115352007386748515426880336692474882178609894547503885,
    ),
    Curve.P256: _curve_parameters(
        0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF,
        0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFC,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        _point(
            0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
            0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
            32,
        ),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    Curve.P384: _curve_parameters(
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        2**384 - 2**128 - 2**96 + 2**32 - 4,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
        _point(
            0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
            0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F,
            48,
        ),
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
    Curve.P521: _curve_parameters(
        2**521 - 1,
        2**521 - 4,
        0x0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
        _point(
            0x00C6858E06B70404E9CD9E3ECB662395B4429C648139053FB521F828AF606B4D3DBAA14B5E77EFE75928FE1DC127A2FFA8DE3348B3C1856A429BF97E7E31C2E5BD66,
            0x011839296A789A3BC0045C8A5FB42C7D1BD998F54449579B446817AFBD17273E662C97EE72995EF42640C550B9013FAD0761353C7086A272C24088BE94769FD16650,
            66,
        ),
        2**521 - 657877501894328237357444332315020117536923257219387276263472201219398408051703,
    ),
}
