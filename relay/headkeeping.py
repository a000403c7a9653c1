"""The ends of audit logs that a relay saw, written to the disk from time to time."""

from pathlib import Path

import trio

from relay.heads import KEEP_SECONDS, LAST_WRITE_SECONDS, Heads

__all__ = ["TendedHeads"]


class TendedHeads(Heads):
    """As `Heads`, for who runs an event loop."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._news = trio.Event()

    def _tell(self) -> None:
        super()._tell()
        self._news.set()

    async def keep(self) -> None:
        """Write them from time to time until cancelled, and then once more."""
        try:
            while True:
                await self._news.wait()
                await trio.sleep(KEEP_SECONDS)
                await self._write()
        finally:
            if self._news.is_set():
                with trio.move_on_after(LAST_WRITE_SECONDS, shield=True):
                    await self._write()

    async def _write(self) -> None:
        self._news = trio.Event()
        await trio.to_thread.run_sync(self.write)
