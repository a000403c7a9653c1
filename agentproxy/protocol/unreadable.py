"""What reading JSON into one of our types may raise, whoever wrote the text."""

import cattrs

from agentproxy.protocol.errors import BlindOracleError

__all__ = ["UNREADABLE"]

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
