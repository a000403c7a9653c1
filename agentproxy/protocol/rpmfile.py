"""The parts of an RPM that signatures are about: its signature header and its header.

Exactly what is needed, with limits; rpm itself decides whether a package is good. Source: docs/manual/format_v4.md,
format_header.md and lib/header.c of rpm; sizes as rpm limits them.
"""

import struct
from typing import BinaryIO, Self

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = ["MAGIC", "Entry", "Header", "RpmFront", "RpmSignatures", "read_front", "read_rpm"]

MAGIC = b"\xed\xab\xee\xdb"
_LEAD = 96  # bytes
_HEADER_MAGIC = b"\x8e\xad\xe8\x01\x00\x00\x00\x00"
_MAX_ENTRIES = 0xFFFF
_MAX_SIGNATURE_DATA = 64 << 20  # bytes; rpm's limit for a signature header
_MAX_HEADER_DATA = 256 << 20  # bytes; rpm's limit for a header
_MAX_SIGNATURE_ENTRIES = 32  # rpm's limit, too
_MAX_TEXTS = 0xFFFF  # of one tag, each of which is looked for; what we read of a header has one or a few
_ENTRY = struct.Struct(">IIII")  # tag, type, offset, count
BINARY = 7
_TEXTS = frozenset({6, 8, 9})  # one text, or `count` of them, each with a zero behind it
# Bytes of one value by type: NULL, CHAR, INT8, INT16, INT32, INT64, and BIN as bytes.
_SIZES = {0: 0, 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, BINARY: 1}

# Of the header alone, and of header and payload together, as the numbers of rpmtag.h.
_HEADER_TAGS = frozenset({267, 268})  # DSAHEADER (also ECDSA and EdDSA), RSAHEADER
_PACKAGE_TAGS = frozenset({1002, 1005})  # PGP, GPG


@frozen
class Entry:
    """One tag of a header."""

    tag: int
    kind: int  # rpm's number of the type
    count: int
    value: bytes  # as it stands in the header's data

    @property
    def alignment(self) -> int:
        """What an offset in the data must be divisible by."""
        return max(1, _SIZES.get(self.kind, 1)) if self.kind != BINARY else 1

    @property
    def texts(self) -> list[bytes]:
        """The texts of a text type; empty for another."""
        return self.value.split(b"\0")[: self.count] if self.kind in _TEXTS else []


@frozen
class Header:
    """A signature header's tags, in the order of its index."""

    entries: tuple[Entry, ...]

    def find(self, tag: int) -> Entry | None:
        """The entry of a tag; None when the header has none."""
        return next((entry for entry in self.entries if entry.tag == tag), None)

    @classmethod
    def parse(cls, index: bytes, data: bytes) -> Self:
        """Take apart a signature header.

        Raises:
            RemoteProtocolError: an entry lies outside of the data, shares it with another, or stands twice, or there
                are too many.
        """
        if len(index) > _MAX_SIGNATURE_ENTRIES * _ENTRY.size:
            raise RemoteProtocolError(f"a signature header of the RPM has more than {_MAX_SIGNATURE_ENTRIES} entries")
        entries: list[Entry] = []
        left = len(data)
        for fields in _ENTRY.iter_unpack(index):
            entries.append(_entry(data, *fields))
            left -= len(entries[-1].value)
            if left < 0:  # else a few bytes of index would make us copy the same megabytes again and again
                raise RemoteProtocolError("the entries of a header of the RPM overlap")
        if len({entry.tag for entry in entries}) != len(entries):
            raise RemoteProtocolError("a tag stands twice in a header of the RPM")
        return cls(tuple(entries))


def _entry(data: bytes, tag: int, kind: int, offset: int, count: int) -> Entry:
    if kind in _TEXTS:
        end = offset
        if count > _MAX_TEXTS:
            raise RemoteProtocolError(f"tag {tag} of the RPM has more than {_MAX_TEXTS} texts")
        for _ in range(1 if kind == 6 else count):
            end = data.find(b"\0", end) + 1
            if end == 0:
                raise RemoteProtocolError(f"tag {tag} of the RPM lies outside its header")
    elif kind in _SIZES:
        end = offset + count * _SIZES[kind]
    else:
        raise RemoteProtocolError(f"tag {tag} of the RPM has an unknown type")
    if offset > len(data) or end > len(data):
        raise RemoteProtocolError(f"tag {tag} of the RPM lies outside its header")
    return Entry(tag, kind, count, data[offset:end])


@frozen
class RpmFront:
    """Everything in an RPM before its payload."""

    lead: bytes
    signature_index: bytes
    signature_data: bytes
    header_start: int  # bytes from the file's start
    header: bytes  # whole: what a signature of the header is about
    header_entries: int

    @property
    def header_end(self) -> int:
        """Where the payload begins, in bytes from the file's start."""
        return self.header_start + len(self.header)

    @property
    def signatures(self) -> Header:
        """The signature header, taken apart."""
        return Header.parse(self.signature_index, self.signature_data)

    def check_room(self) -> None:
        """Raise RemoteProtocolError unless every entry's values have room in the header's data.

        For readers that first make room for as many values as an entry says: four thousand million are too many.
        """
        end = 16 + 16 * self.header_entries
        size = len(self.header) - end
        for tag, kind, offset, count in _ENTRY.iter_unpack(self.header[16:end]):
            # A text has its zero at least, and what is of no known type is not smaller.
            if offset > size or count * (_SIZES.get(kind) or 1) > size - offset:
                raise RemoteProtocolError(f"tag {tag} of the RPM lies outside its header")

    def tag(self, tag: int) -> Entry | None:
        """One entry of the header, which may have very many; None when it is not there.

        Raises:
            RemoteProtocolError: it stands twice, or lies outside of the header.
        """
        end = 16 + 16 * self.header_entries
        found = [fields for fields in _ENTRY.iter_unpack(self.header[16:end]) if fields[0] == tag]
        if len(found) > 1:
            raise RemoteProtocolError("a tag stands twice in a header of the RPM")
        return _entry(self.header[end:], *found[0]) if found else None


@frozen
class RpmSignatures:
    """What stands in an RPM's signature header, and where what was signed is."""

    header: tuple[bytes, ...]  # OpenPGP signatures of the header
    package: tuple[bytes, ...]  # … of the header and all behind it
    header_start: int  # bytes from the file's start
    header_end: int


def read_rpm(file: BinaryIO) -> RpmSignatures:
    """Read the signatures of an RPM.

    Raises:
        RemoteProtocolError: it is not one.
    """
    front = read_front(file)
    index, data = front.signature_index, front.signature_data
    header, package = _signatures(index, data, _HEADER_TAGS), _signatures(index, data, _PACKAGE_TAGS)
    return RpmSignatures(header, package, front.header_start, front.header_end)


def read_front(file: BinaryIO) -> RpmFront:
    """Read an RPM up to its payload, which stays unread.

    Raises:
        RemoteProtocolError: it is not one.
    """
    lead = _exactly(file, _LEAD)
    if lead[:4] != MAGIC or lead[4] not in {3, 4} or lead[78:80] != b"\x00\x05":
        raise RemoteProtocolError("expected an RPM with a signature header")
    _, index, data = _header(file, _MAX_SIGNATURE_DATA)
    padding = -(16 + len(index) + len(data)) % 8
    _exactly(file, padding)
    start = _LEAD + 16 + len(index) + len(data) + padding
    intro, header_index, header_data = _header(file, _MAX_HEADER_DATA)
    header = intro + header_index + header_data
    return RpmFront(lead, index, data, start, header, len(header_index) // 16)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise RemoteProtocolError("the RPM is cut off")
    return data


def _header(file: BinaryIO, max_data: int) -> tuple[bytes, bytes, bytes]:
    """A header's first 16 bytes, its index, and its data."""
    intro = _exactly(file, 16)
    entries, size = struct.unpack(">II", intro[8:])
    if intro[:8] != _HEADER_MAGIC or entries > _MAX_ENTRIES or size > max_data:
        raise RemoteProtocolError("the RPM has no header where one belongs, or one that is too large")
    return intro, _exactly(file, 16 * entries), _exactly(file, size)


def _signatures(index: bytes, data: bytes, tags: frozenset[int]) -> tuple[bytes, ...]:
    found = []
    for tag, kind, offset, count in _ENTRY.iter_unpack(index):
        if tag not in tags:
            continue
        if kind != BINARY or count > len(data) or offset > len(data) - count:
            raise RemoteProtocolError("a signature of the RPM lies outside its header")
        found.append(data[offset : offset + count])
    return tuple(found)
