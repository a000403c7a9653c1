"""OpenPGP signatures, as far as it takes to say what they signed: version 4, and the numbers.

Bytes in, values out; nothing here checks a signature. Sources: RFC 9580, 4.2 (packets), 5.2.3 (version 4), 5.2.4 (what
is hashed), 6.2 (armor); RFC 4880, 4.2.1 (the old format's lengths).
"""

import base64
import binascii
import re

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = ["MAX_SIGNATURES", "SignaturePacket", "read_signatures"]

MAX_SIGNATURES = 1 << 20  # bytes of all signatures together; one has less than 1200
_MAX_PACKETS = 64
_SIGNATURE = 2  # packet tag
_ARMOR = re.compile(
    rb"\s*-----BEGIN PGP (?:SIGNATURE|MESSAGE)-----[ \t]*\r?\n"
    rb"(?:[!-9;-~]+: [^\r\n]*\r?\n)*[ \t]*\r?\n"
    rb"([A-Za-z0-9+/=\r\n]*?)(?:\r?\n=[A-Za-z0-9+/]{4})?\r?\n"
    rb"-----END PGP (?:SIGNATURE|MESSAGE)-----\s*"
)
_NUMBERS = {1: 1, 3: 1, 17: 2, 19: 2, 22: 2}  # public-key algorithm: how many numbers its signature has
_EDDSA = 22


@frozen
class SignaturePacket:
    """One signature of version 4, or of version 5 as GnuPG makes it with Ed448."""

    kind: int  # 0: of a binary document
    hash_algorithm: HashAlgorithm
    trailer: bytes  # what is hashed behind the document
    left16: bytes  # the first two bytes of the digest: tells whether we hashed the right thing
    numbers: bytes  # `s` of RSA; else `r`, then `s`, as the audit log hashes them


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise RemoteProtocolError("the signature is cut off")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


def read_signatures(untrusted: bytes) -> list[SignaturePacket]:
    """All signatures in a file, armored or not.

    Raises:
        RemoteProtocolError: it holds something else, none, or one of another version than 4 and 5.
    """
    if len(untrusted) > MAX_SIGNATURES:
        raise RemoteProtocolError(f"expected at most {MAX_SIGNATURES} bytes of signatures")
    reader = _Reader(_dearmored(untrusted) if untrusted.lstrip()[:5] == b"-----" else untrusted)
    found: list[SignaturePacket] = []
    while reader.left:
        if len(found) == _MAX_PACKETS:
            raise RemoteProtocolError(f"expected at most {_MAX_PACKETS} signatures")
        tag, body = _packet(reader)
        if tag != _SIGNATURE:
            raise RemoteProtocolError(f"expected a detached signature, got a packet of type {tag}")
        found.append(_signature(body))
    if not found:
        raise RemoteProtocolError("there is no signature in it")
    return found


def _dearmored(text: bytes) -> bytes:
    match = _ARMOR.fullmatch(text)
    if match is None:
        raise RemoteProtocolError("expected one armored signature")
    try:
        return base64.b64decode(match[1].replace(b"\r", b"").replace(b"\n", b""), validate=True)
    except binascii.Error as error:
        raise RemoteProtocolError(f"the armor is damaged: {error}") from error


def _packet(reader: _Reader) -> tuple[int, bytes]:
    first = reader.number(1)
    if first & 0xC0 == 0xC0:
        return first & 0x3F, reader.take(_new_length(reader))
    if first & 0x80 and first & 3 != 3:
        return (first >> 2) & 0xF, reader.take(reader.number(1 << (first & 3)))
    raise RemoteProtocolError("expected an OpenPGP packet of known length")


def _new_length(reader: _Reader) -> int:
    first = reader.number(1)
    if first < 192:
        return first
    if first < 224:
        return ((first - 192) << 8) + reader.number(1) + 192
    if first == 255:
        return reader.number(4)
    raise RemoteProtocolError("expected an OpenPGP packet of known length")


def _signature(body: bytes) -> SignaturePacket:
    reader = _Reader(body)
    version = reader.number(1)
    if version not in {4, 5}:
        raise RemoteProtocolError(f"expected a signature of version 4 or 5, got version {version}")
    kind, algorithm, hashed_with = reader.number(1), reader.number(1), reader.number(1)
    hashed = reader.take(reader.number(2))
    reader.take(reader.number(2))  # subpackets that nobody signed
    left16 = reader.take(2)
    if algorithm not in _NUMBERS:
        raise RemoteProtocolError(f"expected a signature of RSA, DSA, ECDSA or EdDSA, got algorithm {algorithm}")
    numbers = b"".join(_mpi(reader, algorithm) for _ in range(_NUMBERS[algorithm]))
    if reader.left:
        raise RemoteProtocolError("something stands behind the signature's numbers")
    head = bytes([version, kind, algorithm, hashed_with]) + len(hashed).to_bytes(2, "big") + hashed
    try:
        hash_algorithm = HashAlgorithm(hashed_with)
    except ValueError as error:
        raise RemoteProtocolError(f"unknown hash algorithm {hashed_with}") from error
    return SignaturePacket(kind, hash_algorithm, _trailer(head), left16, numbers)


def _trailer(head: bytes) -> bytes:
    """What is hashed behind the document: RFC 9580, 5.2.4, and draft-koch-librepgp, 5.2.4, for version 5.

    There a detached signature counts the document's format, file name and date as zeros.
    """
    if head[0] == 4:
        return head + b"\x04\xff" + len(head).to_bytes(4, "big")
    return head + bytes(6) + b"\x05\xff" + len(head).to_bytes(8, "big")


def _mpi(reader: _Reader, algorithm: int) -> bytes:
    """A number without leading zeros; an EdDSA half at its full length, whatever gpg stripped from it."""
    octets = reader.take((reader.number(2) + 7) // 8)
    number = octets.lstrip(b"\x00")
    if algorithm == _EDDSA:
        return number.rjust(32 if len(octets) <= 32 else 57, b"\x00")  # of Ed448 nothing is stripped
    return number
