"""Messages as JSON: strict in every field, so that a message means one thing or nothing.

`structure` says how values are written. A doubled field and an unknown tag are errors, too.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import ClassVar, Generic, Protocol, TypeVar

from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.jsonobject import decode_object
from agentproxy.protocol.structure import structured
from agentproxy.protocol.unstructure import unstructured_fields

__all__ = ["MessageCodec", "Tagged"]


class Tagged(Protocol):
    """A message: a frozen dataclass whose class carries its tag."""

    tag: ClassVar[str]


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
        return _ENCODER.encode({"type": message.tag, **unstructured_fields(message)}).encode("ascii")

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
            return structured(fields, cls)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{tag}: {error}") from error
        except (LookupError, TypeError, ValueError) as error:
            raise RemoteProtocolError(f"{tag}: {type(error).__name__}: {error}") from error
