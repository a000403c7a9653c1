"""How many lines of the log a peer may cause: nobody shall fill the disk by what comes to nothing."""

import logging
from collections import Counter
from collections.abc import Callable

__all__ = ["PERIOD_SECONDS", "Complaints"]

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 60.0
_MOST_LINES = 5  # about one peer in that time: enough to see what is wrong
_MOST_PEERS = 50  # told apart in that time, so that whoever has many addresses gets no further; the rest counts as one
_REST = "elsewhere"


class Complaints:
    """What was told of each peer in the present period.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends = float("-inf")
        self._counts: Counter[str] = Counter()

    def may_tell(self, who: str) -> bool:
        """Whether the log takes one more line about them; if not, it is counted."""
        known = who if who in self._counts or len(self._counts) < _MOST_PEERS else _REST
        self._counts[known] += 1
        return self._counts[known] <= _MOST_LINES

    def sweep(self) -> None:
        """Tell how many lines were left out, and begin anew when it is time; called every few seconds."""
        now = self._clock()
        if now < self._ends:
            return
        for who, count in self._counts.items():
            if count > _MOST_LINES:
                logger.warning("more such events, not told one by one, from=%s number=%d", who, count - _MOST_LINES)
        self._counts.clear()
        self._ends = now + PERIOD_SECONDS
