"""ASCII armor for OpenPGP certificates and signatures (RFC 9580, 6.2)."""

import base64
import functools

__all__ = ["armored"]

_LINE = 64
_CRC_START, _CRC_POLYNOMIAL = 0xB704CE, 0x1864CFB


def armored(data: bytes, what: str = "PUBLIC KEY BLOCK") -> bytes:
    """The packets as text; with the checksum that old readers, EL7's rpm among them, insist on.

    Args:
        data: OpenPGP packets.
        what: names them in the first and the last line.
    """
    text = base64.b64encode(data).decode("ascii")
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    checksum = base64.b64encode(_crc24(data).to_bytes(3, "big")).decode("ascii")
    head, tail = f"-----BEGIN PGP {what}-----", f"-----END PGP {what}-----"
    return "\n".join([head, "", *lines, f"={checksum}", tail, ""]).encode("ascii")


def _crc_of_octet(octet: int) -> int:
    crc = octet << 16
    for _ in range(8):
        crc <<= 1
        if crc & 0x1000000:
            crc ^= _CRC_POLYNOMIAL
    return crc


@functools.cache  # made at first use: a relay never needs it
def _crc_table() -> tuple[int, ...]:
    return tuple(map(_crc_of_octet, range(256)))


def _crc24(data: bytes) -> int:
    crc, table = _CRC_START, _crc_table()
    for octet in data:
        crc = (crc << 8 & 0xFFFFFF) ^ table[crc >> 16 ^ octet]
    return crc
