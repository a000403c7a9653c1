"""A text as YAML that is read back as it was, for the configuration that our commands write.

Source: YAML 1.1, 5.7 (escapes); PyYAML reads no surrogates, also where JSON writes two of them for one character.
"""

import json

from agentproxy.protocol.errors import ConfigError

__all__ = ["quoted"]

_LAST_OF_JSON = "\uffff"  # up to here JSON's escapes are YAML's


def quoted(text: str) -> str:
    """`text` in double quotes, in ASCII.

    Raises:
        ConfigError: it is a path with bytes that are no UTF-8, which no YAML can hold.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise ConfigError(f"{shown}: is no UTF-8, and cannot stand in a configuration", "rename it") from error
    return '"' + "".join(_escaped(one) for one in text) + '"'


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if character <= _LAST_OF_JSON else f"\\U{ord(character):08X}"
