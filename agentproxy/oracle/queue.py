"""Turns at the signer: fair between runners, urgent work first, and never more waiting than fits.

Within a class of priority, runners take turns one signature each, so whoever floods waits behind itself alone. No
I/O and no tasks: `start` is called when an item's turn has come.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from agentproxy.oracle.policy import Priority
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.errors import LimitedError

__all__ = ["Turns"]

T = TypeVar("T")

# One turn in so many goes to the lowest class that waits: an endless urgent stream must not starve a rebuild.
_AGING = 16
_RETRY_AFTER_MS = 1000  # what a full queue tells; it moves by hundreds of signatures a second


class _Line(Generic[T]):
    """Those who wait in one class, runner by runner."""

    def __init__(self) -> None:
        self._runners: dict[str, deque[tuple[int, T]]] = {}  # the order of the keys is the order of turns
        self.length = 0

    def count(self, runner: str) -> int:
        waiting = self._runners.get(runner)
        return 0 if waiting is None else len(waiting)

    def add(self, runner: str, weight: int, item: T) -> None:
        self._runners.setdefault(runner, deque()).append((weight, item))
        self.length += 1

    def take(self) -> tuple[int, T]:
        """The next one; its runner goes to the end of the line."""
        runner = next(iter(self._runners))
        waiting = self._runners.pop(runner)
        entry = waiting.popleft()
        if waiting:
            self._runners[runner] = waiting
        self.length -= 1
        return entry

    def remove(self, is_over: Callable[[T], bool]) -> Iterator[T]:
        for runner, waiting in list(self._runners.items()):
            kept: deque[tuple[int, T]] = deque()
            over: list[T] = []
            for weight, item in waiting:
                # Once for each: time goes on, and a second answer may be another.
                if is_over(item):
                    over.append(item)
                else:
                    kept.append((weight, item))
            self.length -= len(over)
            if kept:
                self._runners[runner] = kept
            else:
                del self._runners[runner]
            yield from over


class Turns(Generic[T]):
    """Who is at the signer, and who is next.

    Args:
        start: called with an item when its turn comes; whoever was started ends with `done`. When it raises, the item
            was not started.
        window: how much weight may be at the signer at once: enough to keep it busy, so little that a newcomer
            waits for a few signatures only.
        most: how many may wait, all runners together.
        most_per_runner: how many of one runner may wait.
        always: how many of each runner may wait however many others do, beyond `most`.
    """

    def __init__(
        self, start: Callable[[T], None], *, window: int, most: int, most_per_runner: int, always: int = 0
    ) -> None:
        self._start = start
        self._free = window
        self._most = most
        self._most_per_runner = most_per_runner
        self._always = always
        self._lines: dict[Priority, _Line[T]] = {priority: _Line() for priority in Priority}
        self._turn = 0
        self._starting = False
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return self._waiting

    @property
    def waiting_by_priority(self) -> Mapping[Priority, int]:
        """The same, by class."""
        return {priority: line.length for priority, line in self._lines.items()}

    def submit(self, runner: str, priority: Priority, weight: int, item: T) -> None:
        """Start the item, now or when its turn comes.

        Raises:
            LimitedError: the queue is full, or this runner's part of it.
        """
        if not self._waiting and self._free > 0 and not self._starting:
            self._begin(weight, item)  # as mostly: it need not stand in a line
            self._dispatch()
            return
        mine = sum(line.count(runner) for line in self._lines.values())
        is_full = self._waiting >= self._most and mine >= self._always
        if mine >= self._most_per_runner or is_full:
            whose = f"runner {runner} has" if mine >= self._most_per_runner else "there are"
            raise LimitedError(RefusalCode.QUEUE_FULL, f"{whose} too many requests waiting", _RETRY_AFTER_MS)
        self._lines[priority].add(runner, weight, item)
        self._waiting += 1
        self._dispatch()

    def done(self, weight: int) -> None:
        """A started item of this weight is back from the signer."""
        self._free += weight
        self._dispatch()

    def remove(self, is_over: Callable[[T], bool]) -> list[T]:
        """Take out those who wait in vain; they get no turn."""
        removed = [item for line in self._lines.values() for item in line.remove(is_over)]
        self._waiting -= len(removed)
        return removed

    def _dispatch(self) -> None:
        while self._waiting and self._free > 0 and not self._starting:
            weight, item = self._next_line().take()
            self._waiting -= 1
            self._begin(weight, item)

    def _begin(self, weight: int, item: T) -> None:
        self._free -= weight
        # An item may end while it is started (the signer is away): its `done` must not start the next one inside.
        self._starting = True
        try:
            self._start(item)
        except BaseException:
            self._free += weight
            raise
        finally:
            self._starting = False

    def _next_line(self) -> _Line[T]:
        waiting = [line for line in self._lines.values() if line.length]
        self._turn += 1
        return waiting[-1] if self._turn % _AGING == 0 else waiting[0]
