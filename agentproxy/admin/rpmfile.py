"""The parts of an RPM that signatures are about: its signature header and its header.

Exactly what is needed, with limits; rpm itself decides whether a package is good. Source: docs/manual/format_v4.md and
lib/header.c of rpm; sizes as rpm limits them.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from agentproxy.protocol.errors import RemoteProtocolError

__all__ = ["MAGIC", "RpmSignatures", "read_rpm"]

MAGIC = b"\xed\xab\xee\xdb"
_LEAD = 96  # bytes
_HEADER_MAGIC = b"\x8e\xad\xe8\x01\x00\x00\x00\x00"
_MAX_ENTRIES = 0xFFFF
_MAX_SIGNATURE_DATA = 64 << 20  # bytes; rpm's limit for a signature header
_MAX_HEADER_DATA = 256 << 20  # bytes; rpm's limit for a header
_ENTRY = struct.Struct(">IIII")  # tag, type, offset, count
_BINARY = 7

# Of the header alone, and of header and payload together, as the numbers of rpmtag.h.
_HEADER_TAGS = frozenset({267, 268})  # DSAHEADER (also ECDSA and EdDSA), RSAHEADER
_PACKAGE_TAGS = frozenset({1002, 1005})  # PGP, GPG


@dataclass(frozen=True, slots=True)
class RpmSignatures:
    """What stands in an RPM's signature header, and where what was signed is."""

    header: tuple[bytes, ...]  # OpenPGP signatures of the header
    package: tuple[bytes, ...]  # … of the header and all behind it
    header_start: int  # bytes from the file's start
    header_end: int


def read_rpm(file: BinaryIO) -> RpmSignatures:
    """Read the front of an RPM; what lies behind its header stays unread.

    Raises:
        RemoteProtocolError: it is not one.
    """
    lead = _exactly(file, _LEAD)
    if lead[:4] != MAGIC or lead[4] not in {3, 4} or lead[78:80] != b"\x00\x05":
        raise RemoteProtocolError("expected an RPM with a signature header")
    entries, size, index = _front(file, _MAX_SIGNATURE_DATA)
    data = _exactly(file, size)
    _exactly(file, -(16 + 16 * entries + size) % 8)
    start = file.tell()
    entries_of_header, size_of_header, _ = _front(file, _MAX_HEADER_DATA)
    end = start + 16 + 16 * entries_of_header + size_of_header
    header, package = _signatures(index, data, _HEADER_TAGS), _signatures(index, data, _PACKAGE_TAGS)
    return RpmSignatures(header, package, start, end)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise RemoteProtocolError("the RPM is cut off")
    return data


def _front(file: BinaryIO, max_data: int) -> tuple[int, int, bytes]:
    """A header's number of entries, size of its data, and its index."""
    intro = _exactly(file, 16)
    entries, size = struct.unpack(">II", intro[8:])
    if intro[:8] != _HEADER_MAGIC or entries > _MAX_ENTRIES or size > max_data:
        raise RemoteProtocolError("the RPM has no header where one belongs, or one that is too large")
    return entries, size, _exactly(file, 16 * entries)


def _signatures(index: bytes, data: bytes, tags: frozenset[int]) -> tuple[bytes, ...]:
    found = []
    for tag, kind, offset, count in _ENTRY.iter_unpack(index):
        if tag not in tags:
            continue
        if kind != _BINARY or count > len(data) or offset > len(data) - count:
            raise RemoteProtocolError("a signature of the RPM lies outside its header")
        found.append(data[offset : offset + count])
    return tuple(found)
