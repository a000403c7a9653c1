"""Modules that are imported while we wait for the oracle, behind whose answer they are needed."""

import contextlib
import importlib
import threading
from collections.abc import Callable
from types import TracebackType

__all__ = ["Loading"]


def _nobody() -> None:
    """Nobody wants to know."""


class Loading:
    """Imports a module in a thread, beginning now: while a slow disk gives it, whoever interrupts us need not wait.

    Args:
        name: the module's.
        done: called in the thread when it is there, or cannot be.

    Attributes:
        is_done: it is there.
        error: what kept it from being imported.
    """

    def __init__(self, name: str, done: Callable[[], None] = _nobody) -> None:
        self.is_done = False
        self.error: BaseException | None = None
        self._name = name
        self._done = done
        self._thread = threading.Thread(target=self._load, name="loading", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.push(self._ended)
            importlib.import_module(self._name)

    def _ended(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> bool:
        # Whatever it is, also no ImportError, as of a failing disk, and no Exception, as a panic of a library in Rust:
        # who waits for the module would else wait for ever.
        self.error = error
        self.is_done = error is None
        self._done()
        return True

    def wait(self) -> None:
        """Return once it is there.

        Raises:
            BaseException: it cannot be; mostly an ImportError.
        """
        self._thread.join()
        if self.error is not None:
            raise self.error
