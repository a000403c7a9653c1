"""Our types of the plain values of JSON or YAML, strictly: a value means one thing or nothing.

Only lists become tuples, and only objects become dicts and dataclasses; no number becomes a string, and True is not 1.
Unknown and missing fields are errors. Binary values are lower-case hex, keygrips and fingerprints upper-case hex, times
RFC 3339 UTC with microseconds. `unstructure` is the way back.
"""

import enum
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from typing import TypeVar, cast, get_args, get_origin

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import BlindOracleError, RemoteProtocolError
from agentproxy.protocol.keys import Fingerprint, Keygrip, PublicKey
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.times import parse_time

__all__ = [
    "UNIONS",
    "UNREADABLE",
    "Read",
    "Reader",
    "beside_none",
    "given_fields",
    "is_required",
    "structured",
]

# What reading JSON into one of our types may raise, whoever wrote the text: the types' own checks, and json's (a
# thousand brackets are a RecursionError).
UNREADABLE = (BlindOracleError, LookupError, RecursionError, TypeError, ValueError)

_MAX_NAME = 64  # characters
_MAX_DIGITS = 8

T = TypeVar("T")
Read = Callable[[object], object]


class Reader:
    """Makes our types of plain values.

    Args:
        leaves: how values of these types are read, where it is another way than in messages.
    """

    def __init__(self, leaves: Mapping[object, Read] | None = None) -> None:
        self._leaves: Mapping[object, Read] = {**_LEAVES, **(leaves or {})}
        self._reads = dict(self._leaves)

    def read(self, untrusted: object, wanted: type[T]) -> T:
        """The value as `wanted`.

        Raises:
            RemoteProtocolError: it is none, or a field of it is unknown, missing or wrong.
            BlindOracleError, LookupError, TypeError, ValueError: what the types themselves refuse values with.
        """
        return cast("T", self.how(wanted)(untrusted))

    def how(self, wanted: object) -> Read:
        """How to read a `wanted`; made at first use, since nobody reads every type.

        Raises:
            NotImplementedError: nothing is read as that type: a bug of ours, which is nobody's bad input.
        """
        read = self._reads.get(wanted)
        if read is None:
            read = self._reads[wanted] = self._made(wanted)
        return read

    def has_parts(self, wanted: object) -> bool:
        """Whether a `wanted` is made of parts that are read by themselves; a keygrip for one is not."""
        return wanted not in self._leaves

    def _made(self, wanted: object) -> Read:
        parts = get_args(wanted)
        if get_origin(wanted) is tuple and len(parts) == 2 and parts[1] is Ellipsis:
            return _tuple(self.how(parts[0]))
        if get_origin(wanted) is dict:
            return _dict(self.how(parts[0]), self.how(parts[1]))
        beside = beside_none(wanted)
        if beside is not None:
            return _optional(self.how(beside))
        if wanted in UNIONS:
            return _one_of(UNIONS[wanted], {getattr(cls, UNIONS[wanted]): self.how(cls) for cls in parts})
        if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
            members = {member.value: member for member in wanted}
            if all(type(value) is str for value in members):
                return _member(members)
        if isinstance(wanted, type) and is_dataclass(wanted):
            return _dataclass(wanted, [(each, self.how(each.type)) for each in given_fields(wanted)])
        raise NotImplementedError(f"nothing is read as {wanted}")


def beside_none(wanted: object) -> object:
    """The type that may be None as well, of such a union; None of every other type."""
    others = [part for part in get_args(wanted) if part is not types.NoneType]
    return others[0] if isinstance(wanted, types.UnionType) and len(others) == 1 else None


def given_fields(cls: type[object]) -> list[Field[object]]:
    """The fields of a dataclass that whoever makes a value gives; the class sets the others by itself."""
    return [member for member in fields(cls) if member.init]  # type: ignore[arg-type]


def is_required(member: Field[object]) -> bool:
    """Whether a dataclass cannot be made without the field."""
    return member.default is MISSING and member.default_factory is MISSING


def _unexpected(words: str, value: object) -> RemoteProtocolError:
    return RemoteProtocolError(f"expected {words}, got {type(value).__name__}")


def _exactly(wanted: type[T], words: str) -> Callable[[object], T]:
    """Of this very type: bool is a subclass of int, and a string would become a tuple of its letters."""

    def check(value: object) -> T:
        if type(value) is not wanted:
            raise _unexpected(words, value)
        return value

    return check


_string = _exactly(str, "a string")
_integer = _exactly(int, "an integer")
_boolean = _exactly(bool, "true or false")
_list: Callable[[object], list[object]] = _exactly(list, "a list")
_object: Callable[[object], dict[str, object]] = _exactly(dict, "an object")


def _tuple(read: Read) -> Read:
    def read_tuple(value: object) -> object:
        return tuple([read(each) for each in _list(value)])

    return read_tuple


def _dict(read_key: Read, read: Read) -> Read:
    def read_dict(value: object) -> object:
        return {read_key(key): read(each) for key, each in _object(value).items()}

    return read_dict


def _optional(read: Read) -> Read:
    def read_optional(value: object) -> object:
        return None if value is None else read(value)

    return read_optional


def _one_of(tag: str, reads: Mapping[object, Read]) -> Read:
    def read_one(value: object) -> object:
        if type(value) is not dict:
            raise RemoteProtocolError(f"expected an object with {tag!r}")
        rest = dict(value)
        told = rest.pop(tag, None)
        read = reads.get(told) if isinstance(told, str) else None
        if read is None:
            raise RemoteProtocolError(f"{tag}: expected one of {', '.join(sorted(map(str, reads)))}")
        return read(rest)

    return read_one


def _member(members: Mapping[str, enum.Enum]) -> Read:
    def read_member(value: object) -> object:
        member = members.get(_string(value))
        if member is None:
            raise RemoteProtocolError(f"expected one of {', '.join(members)}, got {str(value)[:_MAX_NAME]!r}")
        return member

    return read_member


def _dataclass(wanted: type[object], members: list[tuple[Field[object], Read]]) -> Read:
    reads = [(member.name, read, is_required(member)) for member, read in members]

    def read_dataclass(value: object) -> object:
        plain = _object(value)
        values: dict[str, object] = {}
        for name, read, required in reads:
            if name in plain:
                values[name] = read(plain[name])
            elif required:
                raise RemoteProtocolError(f"the field {name!r} is missing")
        if len(values) != len(plain):
            # A peer makes up the names of unknown fields: one could be a line of the log of its own, or fill it.
            unknown = min(str(name) for name in plain if name not in values)
            raise RemoteProtocolError(f"unknown field {unknown[:_MAX_NAME]!r}")
        return wanted(**values)

    return read_dataclass


def _number(value: object) -> float:
    if type(value) is not int and type(value) is not float:
        raise _unexpected("a number", value)
    number = float(str(value))  # of a thousand digits, too, which float() of an int refuses
    if not abs(number) < float("inf"):
        raise RemoteProtocolError("expected a finite number")
    return number


def _name_or_number(value: object) -> str | int:
    """A user or group: by name or by number."""
    if type(value) is str or type(value) is int:
        return value
    raise _unexpected("a name or a number", value)


def _octets(value: object) -> bytes:
    try:
        found = bytes.fromhex(_string(value))
    except ValueError as error:
        raise RemoteProtocolError("expected lower-case hex") from error
    # fromhex takes upper case and blanks too. Comparing is five times as fast as a regex for a signature.
    if found.hex() != value:
        raise RemoteProtocolError("expected lower-case hex")
    return found


def _hash_algorithm(value: object) -> HashAlgorithm:
    algorithm = _HASH_ALGORITHMS.get(_integer(value))
    if algorithm is None:
        raise RemoteProtocolError(f"unknown hash algorithm {str(value)[:_MAX_DIGITS]}")  # a peer may write 4000 digits
    return algorithm


_HASH_ALGORITHMS = {algorithm.value: algorithm for algorithm in HashAlgorithm}
_LEAVES: dict[object, Read] = {
    str: _string,
    int: _integer,
    bool: _boolean,
    float: _number,
    str | int: _name_or_number,
    bytes: _octets,
    HashAlgorithm: _hash_algorithm,
    Keygrip: lambda value: Keygrip.parse(_string(value)),
    Fingerprint: lambda value: Fingerprint.parse(_string(value)),
    datetime: lambda value: parse_time(_string(value)),
}
# Unions whose objects carry this class variable beside their own fields: it tells them apart.
UNIONS: Mapping[object, str] = {PublicKey: "algorithm", Signature: "algorithm"}

structured = Reader().read
