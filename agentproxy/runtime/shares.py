"""Who may take how many of a door's places, so that nobody takes them all."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Shares"]

_PARTS = 4  # one address, runner or user may have a quarter of the places
_FEW = 8  # but as many as this, however few places there are


class Shares:
    """How many places each of those who come has taken.

    Args:
        places: that there are for all.
    """

    def __init__(self, places: int) -> None:
        self.most = max(_FEW, places // _PARTS)
        self._taken: Counter[str] = Counter()

    @contextmanager
    def place(self, who: str) -> Iterator[bool]:
        """A place for a connection of theirs; whether they may have one more."""
        self._taken[who] += 1
        try:
            yield self._taken[who] <= self.most
        finally:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]
