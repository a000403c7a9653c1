"""Places in an audit log that somebody kept elsewhere, as a file: what `audit verify --head` compares with."""

import json
from pathlib import Path

import cattrs

from agentproxy.protocol.errors import BlindOracleError, ConfigError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.wire import new_converter

__all__ = ["read_heads"]

_MAX_BYTES = 1 << 20


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
    except ValueError as error:
        raise _no_heads(path) from error
    if isinstance(content, dict) and "heads" in content:
        content = content["heads"]
    try:
        return new_converter().structure(content if isinstance(content, list) else [content], tuple[Head, ...])
    except (BlindOracleError, cattrs.ForbiddenExtraKeysError, LookupError, TypeError, ValueError) as error:
        raise _no_heads(path) from error


def _no_heads(path: Path) -> ConfigError:
    hint = 'such as {"node": "oracle-1", "sequence": 42, "hash": "…64 hex digits…"}'
    return ConfigError(f"{path}: expected the saved head of an audit log in JSON", hint)
