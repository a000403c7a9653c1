"""YAML files that operators write, strictly: whole and right, or refused with every problem and its path.

YAML is read without what surprises: a key that stands twice, `no` for a name, 0755 and 1:30 as numbers, aliases (a
small file can unfold to gigabytes), tags and merge keys are errors that say so.
"""

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TypeVar

import yaml

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.structure import UNREADABLE, Reader
from agentproxy.runtime.files import read_beginning
from agentproxy.runtime.problems import problems

__all__ = ["MAX_BYTES", "line_numbers", "load", "parse"]

MAX_BYTES = 1024 * 1024  # a policy of some 5000 runners; larger ones would take PyYAML many seconds
MAX_DEPTH = 32

_HASH_NAMES = {algorithm.name.lower(): algorithm for algorithm in HashAlgorithm}
_PLAIN_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_SURROGATE = re.compile("[\ud800-\udfff]")  # "\ud83d" in quotes: no file, log or message can hold it
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
# PyYAML's own, and what it lets through: of a character's number above Unicode's, of half a directive, for example.
_YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)

T = TypeVar("T")


def load(path: Path, cls: type[T]) -> T:
    """Read the YAML file `path` into the dataclass `cls`; relative paths in it count from the file's directory.

    Raises:
        ConfigError: every problem, one a line, each with the file's name and its path in it.
    """
    try:
        text = read_beginning(path, MAX_BYTES + 1).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8, byte {error.start} is not") from error
    return _structured(text, cls, str(path), path.absolute().parent)


def parse(text: str, cls: type[T], source: str) -> T:
    """As `load`, from `text`; `source` stands in errors, and relative paths stay as they are."""
    return _structured(text, cls, source, Path())


def line_numbers(text: str) -> dict[str, int]:
    """The line, counted from 1, of every key and item, by its path such as `runners.b1.keys[1]`.

    Empty when the text is no YAML of ours: `parse` says why.
    """
    try:
        root: yaml.Node | None = _StrictLoader(text).get_single_node()
    except _YAML_ERRORS:
        return {}
    return dict(_lines_below(root, "")) if root is not None else {}


def _lines_below(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = f"{path}.{key.value}" if path else str(key.value)
            yield place, key.start_mark.line + 1
            yield from _lines_below(value, place)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            place = f"{path}[{index}]"
            yield place, item.start_mark.line + 1
            yield from _lines_below(item, place)


def _structured(text: str, cls: type[T], source: str, directory: Path) -> T:
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: longer than {MAX_BYTES} bytes")
    plain = _plain(text, source)
    whole: object = {} if plain is None else plain
    reader = _reader(directory)
    try:
        return reader.read(whole, cls)
    except UNREADABLE as error:
        found = problems(reader, whole, cls)
        lines = [f"{source}: {path}: {words}" if path else f"{source}: {words}" for path, words in found]
        raise ConfigError("\n".join(lines)) from error


def _reader(directory: Path) -> Reader:
    def path_below(value: object) -> Path:
        if type(value) is not str or not value:
            raise ConfigError(f"expected a path, got {_kind(value)}")
        return directory / value

    return Reader({Path: path_below, HashAlgorithm: _hash_name})


def _hash_name(value: object) -> HashAlgorithm:
    if type(value) is not str or value not in _HASH_NAMES:
        raise ConfigError(f"expected one of {', '.join(_HASH_NAMES)}, got {_shown(value)}")
    return _HASH_NAMES[value]


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _plain(text: str, source: str) -> object:
    line = ""
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            line = f"line {loader.line + 1}: "
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        hint = "indent with spaces" if "'\\t'" in str(error.problem) else ""
        raise ConfigError(f"{source}: {line}{error.problem}", hint) from error
    except _YAML_ERRORS as error:
        raise ConfigError(f"{source}: {line}not YAML: {' '.join(str(error).split())}") from error


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without the traps; everything it refuses is a MarkedYAMLError, which knows its line."""

    _depth = 0
    # A date is a string for us: our own parser knows the one form that we accept.
    yaml_implicit_resolvers = {  # noqa: RUF012  overrides PyYAML's class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self._next_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases are not allowed", event)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            raise _refused(f"tags are not allowed, such as {event.tag}", event)
        if isinstance(event, yaml.ScalarEvent):
            _check_text(event)
        if self._depth >= MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH} levels", event)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _next_event(self) -> yaml.Event:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        return event

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:  # noqa: FBT001, FBT002  PyYAML's
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _refused(f"the key {key.value} is not read as a string: quote it", key)
            if key.value in seen:
                raise _refused(f"the key {key.value} stands twice", key)
            seen.add(key.value)
        mapping: dict[Hashable, object] = super().construct_mapping(node, deep)
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if _PLAIN_INTEGER.fullmatch(node.value) is None:
            raise _refused(f"the number {node.value} can be misread: write it in decimal, or quote it", node)
        return int(node.value)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def _check_text(event: yaml.ScalarEvent) -> None:
    if _SURROGATE.search(event.value) is not None:
        raise _refused("half a character is not allowed", event)
    if "\0" in event.value:  # no path and no user's name can hold it
        raise _refused("the character 0 is not allowed", event)


def _refused(problem: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    mark = at.start_mark
    return yaml.constructor.ConstructorError(None, None, problem, mark if isinstance(mark, yaml.Mark) else None)
