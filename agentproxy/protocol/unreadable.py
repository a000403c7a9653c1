"""What reading JSON into one of our types may raise, whoever wrote the text."""

import cattrs

from agentproxy.protocol.errors import BlindOracleError

__all__ = ["UNREADABLE", "words"]

# The types' own checks, the converter's, and json's: a thousand brackets are a RecursionError.
UNREADABLE = (
    BlindOracleError,
    cattrs.BaseValidationError,
    cattrs.ForbiddenExtraKeysError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

_MAX_NAME = 64  # characters


def words(error: Exception) -> str:
    """What is wrong with a message's fields, for logs and terminals.

    A peer makes up the names of unknown fields: one could be a line of the log of its own, or fill it.
    """
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return f"unknown field {min(error.extra_fields)[:_MAX_NAME]!r}"
    if isinstance(error, KeyError):
        return f"the field {error} is missing"
    return f"{type(error).__name__}: {error}"
