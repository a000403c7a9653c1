"""Between JSON and our types: strict in every field, so that a message means one thing or nothing.

Binary values are lower-case hex, keygrips and fingerprints upper-case hex, times RFC 3339 UTC with microseconds.
Unknown or doubled fields, wrong types and unknown tags are errors.
"""

import dataclasses
import json
import re
import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import ClassVar, Generic, Protocol, TypeVar, get_args, get_origin

import cattrs
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.dispatch import StructureHook
from cattrs.gen import make_dict_structure_fn, mapping_structure_factory

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.jsonobject import decode_object
from agentproxy.protocol.keys import Fingerprint, Keygrip, PublicKey
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.unreadable import words

__all__ = ["CONVERTER", "MessageCodec", "Tagged", "format_time", "new_converter", "parse_time"]

_HASH_ALGORITHMS = {algorithm.value: algorithm for algorithm in HashAlgorithm}
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z", re.ASCII)


class Tagged(Protocol):
    """A message: a frozen dataclass whose class carries its tag."""

    tag: ClassVar[str]


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds, such as 2026-11-22T10:00:00.000000Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def parse_time(untrusted: str) -> datetime:
    """Read exactly what `format_time` writes.

    Raises:
        RemoteProtocolError: another form, or no such day.
    """
    if _TIME.fullmatch(untrusted) is None:
        raise RemoteProtocolError("a time has the form 2026-11-22T10:00:00.000000Z")
    try:
        return datetime.fromisoformat(untrusted)  # twenty times as fast as strptime, and the form is checked above
    except ValueError as error:
        raise RemoteProtocolError(f"no such time: {error}") from error


# cattrs also calls these two for subclasses, the enums above all: `wanted` makes the member.
def _strict_int(value: object, wanted: type[int]) -> int:
    if type(value) is not int:  # bool is a subclass of int, and True is not 1 here
        raise RemoteProtocolError(f"expected an integer, got {type(value).__name__}")
    return wanted(value)


def _strict_str(value: object, wanted: type[str]) -> str:
    if type(value) is not str:
        raise RemoteProtocolError(f"expected a string, got {type(value).__name__}")
    return value if wanted is str else _member(value, wanted)


def _member(value: str, wanted: type[str]) -> str:
    try:
        return wanted(value)
    except ValueError as error:
        known = ", ".join(getattr(wanted, "__members__", {}).values())
        raise RemoteProtocolError(f"expected one of {known}, got {value[:64]!r}") from error


def _strict_str_or_int(value: object, _: object) -> str | int:
    """A user or group: by name or by number."""
    if isinstance(value, str) or type(value) is int:
        return value
    raise RemoteProtocolError(f"expected a name or a number, got {type(value).__name__}")


def _strict_bool(value: object, _: type) -> bool:
    if type(value) is not bool:
        raise RemoteProtocolError(f"expected true or false, got {type(value).__name__}")
    return value


def _hex(value: object, _: type) -> bytes:
    try:
        found = bytes.fromhex(_strict_str(value, str))
    except ValueError as error:
        raise RemoteProtocolError("expected lower-case hex") from error
    # fromhex takes upper case and blanks too. Comparing is five times as fast as a regex for a signature.
    if found.hex() != value:
        raise RemoteProtocolError("expected lower-case hex")
    return found


def _hash_algorithm(value: object, _: type) -> HashAlgorithm:
    algorithm = _HASH_ALGORITHMS.get(_strict_int(value, int))
    if algorithm is None:
        raise RemoteProtocolError(f"unknown hash algorithm {str(value)[:8]}")  # a peer may write 4000 digits
    return algorithm


def new_converter(*, detailed: bool = False) -> cattrs.Converter:
    """Make a converter for our types, refusing unknown keys.

    Args:
        detailed: collect every problem with its path (configuration) instead of stopping at the first (wire).
    """
    converter = cattrs.Converter(
        forbid_extra_keys=True, detailed_validation=detailed, omit_if_default=True, use_alias=True
    )
    converter.register_structure_hook(int, _strict_int)
    converter.register_structure_hook(str, _strict_str)
    converter.register_structure_hook(bool, _strict_bool)
    converter.register_structure_hook(bytes, _hex)
    converter.register_unstructure_hook(bytes, bytes.hex)
    converter.register_structure_hook(HashAlgorithm, _hash_algorithm)
    converter.register_unstructure_hook(HashAlgorithm, int)
    converter.register_structure_hook(Keygrip, lambda value, _: Keygrip.parse(_strict_str(value, str)))
    converter.register_structure_hook(Fingerprint, lambda value, _: Fingerprint.parse(_strict_str(value, str)))
    converter.register_unstructure_hook(Keygrip, str)
    converter.register_unstructure_hook(Fingerprint, str)
    converter.register_structure_hook(datetime, lambda value, _: parse_time(_strict_str(value, str)))
    converter.register_unstructure_hook(datetime, format_time)
    _register_containers(converter)
    _register_union(converter, PublicKey, "algorithm")
    _register_union(converter, Signature, "algorithm")
    return converter


def _register_containers(converter: cattrs.Converter) -> None:
    """Let only lists become tuples and only objects become dicts and dataclasses.

    cattrs takes whatever can be iterated: a string would become a tuple of its letters, and an empty list a
    dataclass with all its defaults.
    """
    converter.register_structure_hook_factory(
        lambda tp: _origin(tp) is tuple,
        lambda tp: _only(list, "a list", homogenous_tuple_structure_factory(tp, converter)),
    )
    converter.register_structure_hook_factory(
        lambda tp: _origin(tp) is dict,
        lambda tp: _only(dict, "an object", mapping_structure_factory(tp, converter)),
    )
    converter.register_structure_hook_func(lambda tp: tp == str | int, _strict_str_or_int)
    converter.register_structure_hook_factory(_is_optional, lambda tp: _optional(tp, converter))
    converter.register_structure_hook_factory(
        lambda tp: isinstance(tp, type) and dataclasses.is_dataclass(tp),
        lambda tp: _only(dict, "an object", make_dict_structure_fn(tp, converter)),
    )


def _is_optional(tp: object) -> bool:
    return isinstance(tp, types.UnionType) and len(get_args(tp)) == 2 and types.NoneType in get_args(tp)


def _optional(union: types.UnionType, converter: cattrs.Converter) -> StructureHook:
    """Like the hook of cattrs, which looks up the wanted type's hook anew for every value."""
    wanted = next(tp for tp in get_args(union) if tp is not types.NoneType)
    structure = converter.get_structure_hook(wanted)

    def optional(value: object, _: object) -> object:
        result: object = None if value is None else structure(value, wanted)
        return result

    return optional


def _origin(tp: object) -> object:
    return get_origin(tp)


def _only(form: type, words: str, structure: StructureHook) -> StructureHook:
    def checked(value: object, target: type) -> object:
        if type(value) is not form:
            raise RemoteProtocolError(f"expected {words}, got {type(value).__name__}")
        result: object = structure(value, target)
        return result

    return checked


def _register_union(converter: cattrs.Converter, union: object, field: str) -> None:
    """Let dataclasses of `union` carry `field`, a class variable that tells them apart, beside their own fields."""
    classes = {getattr(cls, field): cls for cls in get_args(union)}
    hooks: dict[type, StructureHook] = {}  # made at first use, when every hook is registered

    def structure(value: object, _: object) -> object:
        if not isinstance(value, dict):
            raise RemoteProtocolError(f"expected an object with {field!r}")
        rest = dict(value)
        cls = classes.get(rest.pop(field, None))
        if cls is None:
            raise RemoteProtocolError(f"{field}: expected one of {', '.join(sorted(classes))}")
        hook = hooks.get(cls)
        if hook is None:
            hook = hooks[cls] = converter.get_structure_hook(cls)
        return hook(rest, cls)

    def unstructure(value: object) -> dict[str, object]:
        plain: dict[str, object] = converter.unstructure(value, unstructure_as=type(value))
        return {field: getattr(value, field), **plain}

    converter.register_structure_hook_func(lambda tp: tp == union, structure)
    converter.register_unstructure_hook_func(lambda tp: tp == union, unstructure)


CONVERTER = new_converter()  # of messages, and of whoever needs no other: it takes half a millisecond to make
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)

M = TypeVar("M", bound=Tagged)


class _OwnText(Generic[M]):
    """The text that we write for messages of a class, and the quick way to read it."""

    def __init__(self, tag: str, pattern: str, of_match: Callable[[re.Match[str]], M]) -> None:
        self.start = f'{{"type":"{tag}",'.encode("ascii")
        self._text = rf'\{{"type":"{tag}",{pattern}\}}'
        self._of_match = of_match
        self._pattern: re.Pattern[str] | None = None  # compiled at first use: nobody reads them all

    def read(self, untrusted: bytes) -> M | None:
        """The message; None: it may be written in another way, or wrong."""
        if self._pattern is None:
            self._pattern = re.compile(self._text)
        try:
            found = self._pattern.fullmatch(untrusted.decode("ascii"))
            return None if found is None else self._of_match(found)
        except (RemoteProtocolError, LookupError, ValueError):
            return None


class MessageCodec(Generic[M]):
    """Encodes and decodes the messages of one direction; every other tag is an error.

    Args:
        classes: frozen dataclasses, each with a `tag` of its own. A class with a method `members` writes the text of
            its fields by itself: the same that we would write, in less time. Its `pattern` matches that text, and its
            class method `of_match` makes the message of the match.
    """

    def __init__(self, *classes: type[M]) -> None:
        self._classes: Mapping[object, type[M]] = {cls.tag: cls for cls in classes}
        # Made at first use: all of them together would take a tenth of a relay's start.
        self._hooks: dict[type[M], StructureHook] = {}
        self._members: dict[type[M], Callable[[M], str]] = {
            cls: members for cls in classes if (members := getattr(cls, "members", None)) is not None
        }
        self._own_texts: list[_OwnText[M]] = [
            _OwnText(cls.tag, getattr(cls, "pattern", ""), of_match)
            for cls in classes
            if (of_match := getattr(cls, "of_match", None)) is not None
        ]

    def encode(self, message: M) -> bytes:
        """JSON of `message` with its tag under "type".

        Raises:
            LocalProtocolError: the message does not belong to this direction.
        """
        if type(message) is not self._classes.get(message.tag):
            raise LocalProtocolError(f"{type(message).__name__} does not travel in this direction")
        members = self._members.get(type(message))
        if members is not None:
            return f'{{"type":"{message.tag}",{members(message)}}}'.encode("ascii")
        fields: dict[str, object] = CONVERTER.unstructure(message)
        return _ENCODER.encode({"type": message.tag, **fields}).encode("ascii")

    def decode(self, untrusted: bytes) -> M:
        """The message in one frame's payload.

        Raises:
            RemoteProtocolError: not UTF-8, not one JSON object, a tag of another direction, or a field that is
                unknown, missing, doubled or of the wrong type.
        """
        for own_text in self._own_texts:
            if untrusted.startswith(own_text.start):
                message = own_text.read(untrusted)
                if message is not None:
                    return message
        return self._structured(untrusted)

    def _structured(self, untrusted: bytes) -> M:
        fields = decode_object(untrusted)
        tag = fields.pop("type", None)
        cls = self._classes.get(tag) if isinstance(tag, str) else None
        if cls is None:
            raise RemoteProtocolError("unknown type of message")
        try:
            structured: M = self._hook(cls)(fields, cls)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{tag}: {error}") from error
        except (
            cattrs.BaseValidationError,
            cattrs.ForbiddenExtraKeysError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise RemoteProtocolError(f"{tag}: {words(error)}") from error
        return structured

    def _hook(self, cls: type[M]) -> StructureHook:
        hook = self._hooks.get(cls)
        if hook is None:
            hook = self._hooks[cls] = CONVERTER.get_structure_hook(cls)
        return hook
