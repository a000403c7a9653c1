"""JSON objects, strictly: a doubled field, or a number that JSON does not have, is an error at any depth."""

import json
from typing import NoReturn

from agentproxy.protocol.errors import RemoteProtocolError

__all__ = ["bare_object", "decode_object"]


def _no_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise RemoteProtocolError("a field stands twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise RemoteProtocolError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_doubles, parse_constant=_no_constant)


def decode_object(untrusted: bytes) -> dict[str, object]:
    """The fields of one JSON object in UTF-8.

    Raises:
        RemoteProtocolError: it is something else, or a field stands twice.
    """
    try:
        fields = _DECODER.decode(untrusted.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"not JSON: {type(error).__name__}") from error
    if not isinstance(fields, dict):
        raise RemoteProtocolError("a message is a JSON object")
    return fields


def bare_object(untrusted: str) -> dict[str, object]:
    """The fields of one JSON object with nothing around it, not even blanks, whose search takes as long as the rest.

    Raises:
        RemoteProtocolError: it is something else, or a field stands twice.
    """
    try:
        fields, end = _DECODER.raw_decode(untrusted)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"not JSON: {type(error).__name__}") from error
    if end != len(untrusted) or not isinstance(fields, dict):
        raise RemoteProtocolError("not a JSON object alone")
    return fields
