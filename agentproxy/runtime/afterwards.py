"""Work that nobody waits for, such as lines of the log: put off until whoever waits has been served.

What a process does behind its answer keeps the processor from the one that the answer is for. A moment later the
processor mostly has nothing to do; and several pieces together cost less than as many that each find cold caches.
"""

import logging
from collections.abc import Callable
from math import inf
from typing import NoReturn

import trio

from agentproxy.runtime.alarm import Alarm

__all__ = ["Afterwards"]

logger = logging.getLogger(__name__)

DELAY_SECONDS = 0.01
MOST = 256  # pieces that wait: then they are done at once


class Afterwards:
    """Does work a moment later, in the order in which it came; one task runs it."""

    def __init__(self) -> None:
        self._pieces: list[Callable[[], object]] = []
        self._alarm = Alarm()
        self._is_over = False

    def put_off(self, piece: Callable[[], object]) -> None:
        """Do this within DELAY_SECONDS; at once when `run` has ended.

        What it raises is logged, since nobody is there to hear of it.
        """
        self._pieces.append(piece)
        if self._is_over or len(self._pieces) >= MOST:
            self.do()
        elif len(self._pieces) == 1:
            # To wake a task would make the event loop go round once more right now.
            self._alarm.set(trio.current_time() + DELAY_SECONDS)

    def do(self) -> None:
        """Do all that waits now."""
        pieces, self._pieces = self._pieces, []
        self._alarm.set(inf)
        for piece in pieces:
            try:
                piece()
            except Exception:  # one piece must not end the task that does the others
                logger.exception("put off, and failed")

    async def run(self) -> NoReturn:
        """Do what is put off, until cancelled; then what is left, and what others still have to put off, at once."""
        try:
            while True:
                await self._alarm.wait()
                self.do()
        finally:
            self._is_over = True
            self.do()
