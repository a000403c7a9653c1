"""A time to wait for that others set: to do so wakes nobody, as an event would, before that time has come."""

import trio

__all__ = ["Alarm"]


class Alarm:
    """For one task that waits; whoever knows when it is wanted sets it."""

    def __init__(self) -> None:
        self._until_then = trio.CancelScope()

    def set(self, at: float) -> None:
        """Let the wait end then, by trio's clock, and not at a time that was set before; `inf` is never."""
        self._until_then.deadline = at

    async def wait(self) -> None:
        """Return at the time that is set, now or meanwhile; the next wait ends at none until one is set again."""
        with self._until_then:
            await trio.sleep_forever()
        self._until_then = trio.CancelScope()  # one that has ended stays so
