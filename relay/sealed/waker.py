"""Waking a thread that waits for the oracle."""

import contextlib
import os
import threading

__all__ = ["Waker"]


class Waker:
    """A pipe to wait for beside a connection; any thread may write to it."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._lock = threading.Lock()
        self._is_closed = False

    def fileno(self) -> int:
        """For poll(2)."""
        return self._reading

    def wake(self) -> None:
        """Let whoever waits go, or whoever does so next; once it is closed, nothing."""
        with self._lock, contextlib.suppress(BlockingIOError):  # nobody took the last ones
            if not self._is_closed:
                os.write(self._writing, b"\0")

    def was_woken(self) -> bool:
        """Whether somebody wanted that since the last time that this was asked."""
        try:
            return bool(os.read(self._reading, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Give the pipe back: a thread that outlives a run may wake us yet, and another file have that descriptor."""
        with self._lock:
            self._is_closed = True
            os.close(self._reading)
            os.close(self._writing)
