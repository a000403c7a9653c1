"""Modules of the client that are imported while it waits for the oracle, and who needs one before it is there."""

import contextlib
import importlib

import trio

__all__ = ["BATCH", "CHECKING", "is_loaded", "load", "load_ahead"]

BATCH, CHECKING = "relay.sealed.batch", "relay.sealed.checking"
_loaded: set[str] = set()


def load_ahead() -> None:
    """Import in a thread, while the oracle is asked for its keys, what is of use once it has answered.

    Whoever needs it waits for it by `load`, and is told there what is missing.
    """
    with contextlib.suppress(ImportError):
        for name in (BATCH, CHECKING):
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
