"""Modules of the client that are imported while it waits for the oracle, and who needs one before it is there."""

import contextlib
import importlib
import threading

import trio

__all__ = ["BATCH", "CHECKING", "is_loaded", "load", "load_ahead"]

BATCH, CHECKING = "relay.sealed.batch", "relay.sealed.checking"
_asked_for: set[str] = set()
_loaded: set[str] = set()


def load_ahead(name: str) -> None:
    """Begin to import a module in a thread, while we wait for the oracle's answer, behind which it is needed; once.

    Whoever needs it waits for it by `load`, and is told there what is missing.
    """
    if name not in _asked_for:
        _asked_for.add(name)
        threading.Thread(target=_try_to_load, args=(name,), name="loading").start()


def _try_to_load(name: str) -> None:
    with contextlib.suppress(ImportError):
        _load(name)


def is_loaded(name: str) -> bool:
    """Whether to import it takes no time any more."""
    return name in _loaded


async def load(name: str) -> None:
    """Return once a module is imported.

    In a thread: while a slow disk gives it, the connection lives on, and who interrupts us does not wait for it.

    Raises:
        ImportError: it, or what it needs, cannot be.
    """
    await trio.to_thread.run_sync(_load, name, abandon_on_cancel=True)


def _load(name: str) -> None:
    importlib.import_module(name)
    _loaded.add(name)
