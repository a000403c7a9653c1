"""Places in an audit log that somebody kept elsewhere, as a file: what `audit verify --head` compares with."""

import json
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.structure import UNREADABLE, structured
from agentproxy.signer.segment import list_segments

__all__ = ["heads_of", "read_heads"]

_MAX_BYTES = 1 << 20


def heads_of(path: Path, directory: Path) -> tuple[Head, ...]:
    """The saved heads in `path` that are about the log in `directory`: a relay keeps one for each of its oracles.

    Raises:
        ConfigError: none is, or one of the two cannot be read.
    """
    heads = read_heads(path)
    try:
        nodes = {segment.node for segment in list_segments(directory)}
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}", "auditors need to read it") from error
    fitting = tuple(head for head in heads if head.node in nodes)
    if nodes and not fitting:
        others = ", ".join(sorted({head.node for head in heads})) or "nobody"
        raise ConfigError(f"{path}: no head of {', '.join(sorted(nodes))} in it, but of {others}")
    return fitting


def read_heads(path: Path) -> tuple[Head, ...]:
    """Read a relay's saved heads: JSON, one head, a list, or an object with them under "heads".

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        with path.open("rb") as file:
            content: object = json.loads(file.read(_MAX_BYTES))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UNREADABLE as error:
        raise _no_heads(path) from error
    if isinstance(content, dict) and "heads" in content:
        content = content["heads"]
    try:
        return structured(content if isinstance(content, list) else [content], tuple[Head, ...])
    except UNREADABLE as error:
        raise _no_heads(path) from error


def _no_heads(path: Path) -> ConfigError:
    hint = 'such as {"node": "oracle-1", "sequence": 42, "hash": "…64 hex digits…"}'
    return ConfigError(f"{path}: expected the saved head of an audit log in JSON", hint)
