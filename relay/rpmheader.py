"""Reads what an RPM says it is: name, epoch, version, release, architecture, DISTTAG; and nothing else of it.

A small reader of our own, since rpm's library cannot be asked with a bound on time and memory: a few reads at known
places, whatever the file's size. Source: rpm, docs/manual/format.md.
"""

import os
import struct
from collections.abc import Mapping

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = ["Package", "read_package"]

_LEAD = struct.Struct(">I92x")
_LEAD_MAGIC = 0xEDABEEDB
_INTRO = struct.Struct(">IIII")  # magic, reserved, number of entries, bytes of data
_INTRO_MAGIC = 0x8EADE801
_ENTRY = struct.Struct(">IIII")  # tag, type, offset into the data, count
_MAX_ENTRIES = 4096  # a kernel's package has a hundred
_MAX_DATA = 256 * 1024 * 1024  # bytes: rpm's own limit
_MAX_TEXT = 256  # bytes of one value
_FIRST_READ = 32_768  # bytes: signature, index and names of almost every package

_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH = 1000, 1001, 1002, 1003, 1022
_SOURCE_RPM, _DISTTAG = 1044, 1155
_INT32, _TEXTS = 4, frozenset({6, 8, 9})  # types: number; string, array of strings, translated string


@frozen
class Package:
    """What the header says; nobody has checked its signature."""

    nevra: str  # name-epoch:version-release.arch
    disttag: str | None = None


def read_package(descriptor: int) -> Package:
    """Read the header of the RPM that is open for reading.

    Raises:
        RemoteProtocolError: it is no RPM, or its header is not as it should be.
        OSError: it cannot be read.
    """
    file = _File(descriptor)
    (magic,) = _LEAD.unpack(file.read(0, _LEAD.size))
    if magic != _LEAD_MAGIC:
        raise RemoteProtocolError("not an RPM: no lead")
    entries, size = _sizes(file, _LEAD.size)
    signature = _INTRO.size + _ENTRY.size * entries + size
    return _Header(file, _LEAD.size + (signature + 7) // 8 * 8).package()


class _File:
    """Reads pieces of a file that may change or end meanwhile."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._first = os.pread(descriptor, _FIRST_READ, 0)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly so many bytes."""
        data = self.read_some(offset, size)
        if len(data) != size:
            raise RemoteProtocolError("not an RPM: it ends too early")
        return data

    def read_some(self, offset: int, size: int) -> bytes:
        """So many bytes, fewer at the file's end."""
        if offset + size <= len(self._first):
            return self._first[offset : offset + size]
        return os.pread(self._descriptor, size, offset)


def _sizes(file: _File, offset: int) -> tuple[int, int]:
    magic, _, entries, size = _INTRO.unpack(file.read(offset, _INTRO.size))
    if magic != _INTRO_MAGIC or not 1 <= entries <= _MAX_ENTRIES or size > _MAX_DATA:
        raise RemoteProtocolError("not an RPM: no header where one should be")
    return entries, size


class _Header:
    def __init__(self, file: _File, offset: int) -> None:
        entries, self._size = _sizes(file, offset)
        self._file = file
        index = file.read(offset + _INTRO.size, _ENTRY.size * entries)
        self._data = offset + _INTRO.size + len(index)
        self._index: Mapping[int, tuple[int, int]] = {
            tag: (kind, place) for tag, kind, place, _ in _ENTRY.iter_unpack(index)
        }

    def package(self) -> Package:
        name, version, release = (self._needed(tag) for tag in (_NAME, _VERSION, _RELEASE))
        # A source package carries the architecture that it was built on; what it lacks is the name of its source.
        arch = self._needed(_ARCH) if _SOURCE_RPM in self._index else "src"
        return Package(f"{name}-{self._epoch()}:{version}-{release}.{arch}", self._text(_DISTTAG))

    def _epoch(self) -> int:
        if _EPOCH not in self._index:
            return 0
        (epoch,) = struct.unpack(">I", self._file.read(self._place(_EPOCH, frozenset({_INT32})), 4))
        return int(epoch)

    def _needed(self, tag: int) -> str:
        text = self._text(tag)
        if not text:
            raise RemoteProtocolError(f"not an RPM: no tag {tag}")
        return text

    def _text(self, tag: int) -> str | None:
        if tag not in self._index:
            return None
        text, end, _ = self._file.read_some(self._place(tag, _TEXTS), _MAX_TEXT).partition(b"\0")
        if not end:
            raise RemoteProtocolError(f"not an RPM: tag {tag} is longer than {_MAX_TEXT} bytes")
        return text.decode("utf-8", "replace")

    def _place(self, tag: int, kinds: frozenset[int]) -> int:
        kind, place = self._index[tag]
        if kind not in kinds or place >= self._size:
            raise RemoteProtocolError(f"not an RPM: tag {tag} is not what it should be")
        return self._data + place
