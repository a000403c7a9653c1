"""The errors of this project: each class says who is at fault and whether a retry helps.

Their messages are for our own logs and operators. A peer gets a fixed code instead.
"""

__all__ = [
    "BackendError",
    "BlindOracleError",
    "ConfigError",
    "KeyUnavailableError",
    "LimitedError",
    "LocalProtocolError",
    "ProtocolError",
    "RefusedError",
    "RemoteProtocolError",
]


class BlindOracleError(Exception):
    """The common base, for the one place in a program that prints errors for people."""


class ProtocolError(BlindOracleError):
    """Bytes broke the rules of a protocol."""


class LocalProtocolError(ProtocolError):
    """We were about to send something wrong: a bug. It ends the connection, with a traceback."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something wrong: answer with a code or close, and log one line."""


class RefusedError(BlindOracleError):
    """The policy said no; a retry will not help.

    Attributes:
        code: a `RefusalCode` value, the only part that decides what a peer is told.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class LimitedError(RefusedError):
    """The policy said not now: a retry after `retry_after_ms` milliseconds may be allowed."""

    def __init__(self, code: str, reason: str, retry_after_ms: int) -> None:
        super().__init__(code, reason)
        self.retry_after_ms = retry_after_ms


class BackendError(BlindOracleError):
    """No signature came out; a retry may help."""


class KeyUnavailableError(BackendError):
    """No signature came out, and a retry will not help: the key is not there or cannot be used.

    Attributes:
        hint: what an operator may do about it; empty when the message says it all.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(BlindOracleError):
    """Something that an operator wrote is wrong.

    Attributes:
        hint: what to type or look at next; empty when the message says it all.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
