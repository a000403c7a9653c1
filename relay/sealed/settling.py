"""Makes new names durable together: one fsync of a directory for all files that have just got their names in it."""

import errno
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

__all__ = ["GATHER_SECONDS", "Settling"]

MOST = 16  # files that one fsync is kept waiting for
GATHER_SECONDS = 0.02  # and so long at most: a file waits longer for its signature


class _Round:
    """Those who wait for one and the same fsync."""

    def __init__(self) -> None:
        self.directories: set[str] = set()
        self.waiting = 0
        self.full = trio.Event()
        self.done = trio.Event()
        # By directory; whose directory is not in it after all has been interrupted.
        self.problems: dict[str, OSError | None] = {}


class Settling:
    """Gathers files whose names shall be on the disk.

    Args:
        sync: returns once everything in a directory is on the disk; raises OSError.
    """

    def __init__(self, sync: Callable[[str], Awaitable[None]]) -> None:
        self._sync = sync
        self._under_way = 0
        self._round = _Round()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """While a file is worked on: nobody waits for more files than there are."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._look()

    async def settled(self, directory: str) -> None:
        """Return once all names that are in `directory` now are on the disk.

        Raises:
            OSError: they may not be.
        """
        mine = self._round
        mine.directories.add(directory)
        mine.waiting += 1
        self._look()
        if mine.waiting == 1:
            await self._lead(mine)
        else:
            await mine.done.wait()
        problem = mine.problems.get(directory, OSError(errno.EINTR, "interrupted"))
        if problem is not None:
            raise problem

    def _look(self) -> None:
        if self._round.waiting >= min(MOST, self._under_way):
            self._round.full.set()

    async def _lead(self, mine: _Round) -> None:
        try:
            try:
                with trio.move_on_after(GATHER_SECONDS):
                    await mine.full.wait()
            finally:
                # Whoever comes from now on may come too late for this fsync, or for one that is never made.
                self._round = _Round()
            for directory in mine.directories:
                mine.problems[directory] = await self._problem(directory)
        finally:
            mine.done.set()

    async def _problem(self, directory: str) -> OSError | None:
        """What keeps a directory from the disk, which is no other's problem."""
        try:
            await self._sync(directory)
        except OSError as error:
            return error
        return None
