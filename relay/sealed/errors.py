"""Why a file is not signed, and how a run ends that somebody ended."""

from agentproxy.protocol.errors import BlindOracleError

__all__ = ["INTERRUPTED", "NotSealedError", "UnfitError"]

INTERRUPTED = 130  # exit status, as of a shell behind Ctrl-C


class UnfitError(BlindOracleError):
    """The file itself: what it is, or what became of it while it was signed. It is as it was."""


class NotSealedError(BlindOracleError):
    """The oracle gave no signature, or one that is not what was asked for.

    Attributes:
        code: the oracle's, where it gave one.
    """

    def __init__(self, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.code = code
