"""An RPM's signature header with another signature in it, and everything else as it was.

Written here and not by rpm-rs, which leaves out the MD5 sum and the payload's size: EL7's rpm and Koji go by them.
Where space is reserved it is used, as rpmsign does, so the file keeps its size. Source: docs/manual/format_v4.md and
format_header.md of rpm; sign/rpmgensig.c for what goes where.
"""

import base64
import struct
from dataclasses import replace

from agentproxy.protocol.rpmfile import BINARY, Entry, Header, RpmFront

__all__ = ["assembled", "has_signature", "with_signature"]

# Numbers of rpmtag.h.
_REGION = 62  # HEADERSIGNATURES: a trailer that says which entries belong together, always all of them here
_DSA_HEADER, _RSA_HEADER, _OPENPGP = 267, 268, 278
_PGP, _GPG = 1002, 1005
_RESERVED, _RESERVED_SPACE = 999, 1008  # the room of packages of version 6, and of those before it
_RPM_FORMAT = 5114  # in the header itself, of packages of version 6
_ALL_SIGNATURES = frozenset({_DSA_HEADER, _RSA_HEADER, _OPENPGP, _PGP, _GPG})

_MAGIC = b"\x8e\xad\xe8\x01\x00\x00\x00\x00"
_TEXT_LIST = 8
_RSA = 1  # OpenPGP's number of the algorithm


def has_signature(header: Header) -> bool:
    """Whether there is any OpenPGP signature in a signature header."""
    return any(entry.tag in _ALL_SIGNATURES for entry in header.entries)


def with_signature(front: RpmFront, packet: bytes, algorithm: int) -> bytes:
    """Lead and signature header with this signature as the only one, padded for the header behind it.

    Args:
        front: of the package as it is.
        packet: the OpenPGP signature.
        algorithm: OpenPGP's number of the signature's algorithm.

    Raises:
        RemoteProtocolError: the present signature header's entries lie outside of it.
    """
    kept = [entry for entry in front.signatures.entries if entry.tag not in {*_ALL_SIGNATURES, _REGION}]
    entries = [*kept, _signature_entry(front, packet, algorithm)]
    made = assembled(entries)
    tag = _RESERVED if _is_of_version_6(front) else _RESERVED_SPACE
    # Only bytes are space: entries of another type may count four thousand millions of nothing.
    reserved = next((entry for entry in kept if (entry.tag, entry.kind) == (tag, BINARY)), None)
    before = 16 + len(front.signature_index) + len(front.signature_data)
    room = 0 if reserved is None else before - len(made) + reserved.count
    if reserved is not None and room > 0:
        entries[entries.index(reserved)] = replace(reserved, count=room, value=bytes(room))
        made = assembled(entries)
    return front.lead + made + bytes(-len(made) % 8)


def _is_of_version_6(front: RpmFront) -> bool:
    return front.tag(_RPM_FORMAT) is not None  # no earlier package says its version


def _signature_entry(front: RpmFront, packet: bytes, algorithm: int) -> Entry:
    if _is_of_version_6(front):
        return Entry(_OPENPGP, _TEXT_LIST, 1, base64.b64encode(packet) + b"\0")
    return Entry(_RSA_HEADER if algorithm == _RSA else _DSA_HEADER, BINARY, len(packet), packet)


def assembled(entries: list[Entry]) -> bytes:
    """A header of these entries in one region, not padded."""
    index, data = [], b""
    for entry in sorted(entries, key=lambda entry: entry.tag):
        data += bytes(-len(data) % entry.alignment)
        index.append(struct.pack(">IIII", entry.tag, entry.kind, len(data), entry.count))
        data += entry.value
    number = len(index) + 1
    region = struct.pack(">IIII", _REGION, BINARY, len(data), 16)
    data += struct.pack(">IIiI", _REGION, BINARY, -16 * number, 16)
    return _MAGIC + struct.pack(">II", number, len(data)) + region + b"".join(index) + data
