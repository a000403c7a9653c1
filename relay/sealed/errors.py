"""Why a file is not signed, and how a run ends that somebody ended."""

from types import TracebackType

from agentproxy.protocol.errors import BlindOracleError

__all__ = ["INTERRUPTED", "NotSealedError", "Told", "UnfitError"]

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


class Told:
    """Around what may fail, says what could not be done; it holds nothing of a block, and may be used for many.

    "Permission denied" alone is taken for the file's own, which can be read.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say it; whatever else there is goes on."""
        if isinstance(error, OSError):
            raise OSError(error.errno, f"{self._what}: {error.strerror}") from error
