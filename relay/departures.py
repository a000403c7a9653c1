"""Notices clients that leave while they wait for a signature.

Most signatures are there within milliseconds, so there is no task beside each of them that reads its socket: a few
times a second one task asks the kernel about all who wait.
"""

import select
from typing import NoReturn

import trio

__all__ = ["Departures"]

LOOK_SECONDS = 0.25  # so long a request of somebody who has left may be waited for in vain


class Departures:
    """Who waits, and the scope that ends with them."""

    def __init__(self) -> None:
        self._waiting: dict[int, trio.CancelScope] = {}  # by descriptor
        self._somebody = trio.Event()

    def watch(self, descriptor: int, scope: trio.CancelScope) -> None:
        """Cancel `scope` when this socket's other side closes it, or only its sending half: no client does that."""
        self._waiting[descriptor] = scope
        self._somebody.set()

    def forget(self, descriptor: int) -> None:
        """Its signature is there; called before the descriptor is closed."""
        self._waiting.pop(descriptor, None)

    async def run(self) -> NoReturn:
        """Look until cancelled."""
        while True:
            if not self._waiting:
                self._somebody = trio.Event()
                await self._somebody.wait()
            await trio.sleep(LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        poll = select.poll()
        for descriptor in self._waiting:
            poll.register(descriptor, select.POLLRDHUP)  # POLLHUP and POLLERR are always told
        for descriptor, _ in poll.poll(0):
            self._waiting.pop(descriptor).cancel()
