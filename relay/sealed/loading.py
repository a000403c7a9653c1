"""Modules that are imported while we wait for the oracle, behind whose answer they are needed."""

import importlib
import threading
from collections.abc import Callable

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
        self.error: Exception | None = None
        self._name = name
        self._done = done
        self._thread = threading.Thread(target=self._load, name="loading", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        try:
            importlib.import_module(self._name)
        except Exception as error:  # noqa: BLE001  a disk that cannot be read, say: it comes out where it is waited for
            self.error = error
        else:
            self.is_done = True
        self._done()

    def wait(self) -> None:
        """Return once it is there.

        Raises:
            Exception: what kept it from being imported.
        """
        self._thread.join()
        if self.error is not None:
            raise self.error
