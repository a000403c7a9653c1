"""Reading configuration anew, whenever somebody asks for it, in such an order that the newest counts."""

from collections.abc import Awaitable, Callable

import trio

__all__ = ["Reloads"]


class Reloads:
    """One reload goes on at a time, and those that are asked for meanwhile share one further.

    Side by side, one that has read a file before a key or a right was taken out of it could end last, and what was
    taken out would be there again.

    Args:
        reload: reads what there is and puts it to use, whole or not at all.
    """

    def __init__(self, reload: Callable[[], Awaitable[None]]) -> None:
        self._reload = reload
        self._lock = trio.Lock()
        self._asked = self._begun = 0

    async def reload(self) -> None:
        """Return when a reload that began after this call has ended."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._begun < mine:
                self._begun = self._asked
                await self._reload()
