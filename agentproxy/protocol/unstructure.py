"""The plain values of our types, for JSON: what `structure` reads as the same. A field at its default is left out."""

import enum
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, is_dataclass
from datetime import datetime
from operator import attrgetter
from typing import cast, get_args

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.structure import UNIONS, given_fields, is_required
from agentproxy.protocol.times import format_time

__all__ = ["Write", "Writer", "unstructured", "unstructured_fields"]

Write = Callable[[object], object]

_TAGS = {cls: tag for union, tag in UNIONS.items() for cls in get_args(union)}


class Writer:
    """Makes plain values of our types.

    Args:
        leaves: how values of these types are written, where it is another way than in messages.
    """

    def __init__(self, leaves: Mapping[type[object], Write] | None = None) -> None:
        self._writes: dict[type[object], Write] = {
            **_WRITES,
            tuple: cast("Write", self._list),
            list: cast("Write", self._list),
            dict: cast("Write", self._object),
            **(leaves or {}),
        }

    def write(self, value: object) -> object:
        """The plain value.

        Raises:
            NotImplementedError: nothing of that type is written, which is a bug of ours.
        """
        write = self._writes.get(type(value))
        if write is None:
            write = self._writes[type(value)] = self._made(type(value))
        return write(value)

    def _made(self, cls: type[object]) -> Write:
        if issubclass(cls, enum.Enum):
            return attrgetter("value")
        if is_dataclass(cls):
            return self._fields(cls)
        raise NotImplementedError(f"no {cls.__name__} is written")

    def _fields(self, cls: type[object]) -> Write:
        tag = _TAGS.get(cls)
        start = {} if tag is None else {tag: getattr(cls, tag)}
        members = [(each.name, is_required(each), _default(each)) for each in given_fields(cls)]
        write = self.write

        def write_fields(value: object) -> object:
            plain: dict[str, object] = dict(start)
            for name, required, default in members:
                member: object = getattr(value, name)
                if required or member != default:
                    plain[name] = member if type(member) in _PLAIN else write(member)
            return plain

        return write_fields

    def _list(self, value: Iterable[object]) -> object:
        return [self.write(each) for each in value]

    def _object(self, value: Mapping[object, object]) -> object:
        return {self.write(key): self.write(each) for key, each in value.items()}


def _default(member: Field[object]) -> object:
    return member.default if member.default_factory is MISSING else member.default_factory()


def _itself(value: object) -> object:
    return value


_PLAIN: frozenset[type[object]] = frozenset({str, int, bool, float, types.NoneType})
_WRITES: dict[type[object], Write] = {
    **dict.fromkeys(_PLAIN, _itself),
    bytes: cast("Write", bytes.hex),
    HashAlgorithm: cast("Write", int),
    Keygrip: str,
    Fingerprint: str,
    datetime: cast("Write", format_time),
}

unstructured = Writer().write


def unstructured_fields(value: object) -> dict[str, object]:
    """The plain values of a dataclass's fields, by their names."""
    return cast("dict[str, object]", unstructured(value))
