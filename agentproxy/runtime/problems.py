"""Everything that is wrong in what an operator wrote: reading stops at the first problem, and they want to know all."""

import difflib
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import get_args, get_origin

from agentproxy.protocol.errors import BlindOracleError
from agentproxy.protocol.structure import UNREADABLE, Reader, beside_none, given_fields, is_required

__all__ = ["problems"]


def problems(reader: Reader, value: object, wanted: object, path: str = "") -> list[tuple[str, str]]:
    """Each problem of a value, with its path such as `runners.b1.keys[1]`; none when `reader` takes it.

    A whole is only looked at when its parts are good.
    """
    found = list(_of_parts(reader, value, wanted, path)) if reader.has_parts(wanted) else []
    if not found:
        try:
            reader.how(wanted)(value)
        except UNREADABLE as error:
            found.append((path, str(error) if isinstance(error, BlindOracleError) else f"not valid: {error}"))
    return found


def _of_parts(reader: Reader, value: object, wanted: object, path: str) -> Iterator[tuple[str, str]]:
    parts = get_args(wanted)
    beside = beside_none(wanted)
    if beside is not None and value is not None:
        yield from problems(reader, value, beside, path)
    elif get_origin(wanted) is tuple and isinstance(value, list):
        for index, item in enumerate(value):
            yield from problems(reader, item, parts[0], f"{path}[{index}]")
    elif get_origin(wanted) is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from problems(reader, item, parts[1], _below(path, key))
    elif isinstance(wanted, type) and is_dataclass(wanted) and isinstance(value, dict):
        yield from _of_fields(reader, value, wanted, path)


def _of_fields(reader: Reader, value: dict[str, object], wanted: type[object], path: str) -> Iterator[tuple[str, str]]:
    known = {member.name: member for member in given_fields(wanted)}
    for name, member in known.items():
        if name in value:
            yield from problems(reader, value[name], member.type, _below(path, name))
        elif is_required(member):
            yield _below(path, name), "missing"
    for name in sorted(value.keys() - known.keys()):
        near = difflib.get_close_matches(name, known, n=1)
        meant = f", did you mean {near[0]}?" if near else f", expected one of {', '.join(known)}"
        yield _below(path, name), f"unknown key{meant}"


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
