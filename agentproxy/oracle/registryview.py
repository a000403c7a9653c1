"""The oracle's picture of the registry: refreshed a few times a second, asked for every `hello`, costing no SQL."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

import trio

from agentproxy.oracle.credentials import Credentials
from agentproxy.oracle.registry import Registry, RegistryError

__all__ = ["RegistryView"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25  # revocation acts on open connections within a second
# What shows no mark of a change is not read again so long. To open a SQLite file makes two others, and to close it
# removes them: a quiet oracle that did so at each look wrote 11 GB a day.
UNREAD_SECONDS = 5.0
OUT_OF_REACH_SECONDS = 10.0  # so long an old picture is better than none; then a revocation may have been missed
REMIND_SECONDS = 60.0  # how often the log says again that it is out of reach, and for the same reason
NOTE_SECONDS = 60.0  # how exact a token's last use is
_THREADS = 2  # one looks, one notes; of our own, or whatever else keeps threads busy would close the doors


class RegistryView:
    """The latest credentials.

    Args:
        changed: called after each change of credentials.
    """

    def __init__(self, registry: Registry, changed: Callable[[], None]) -> None:
        self.credentials = Credentials()
        self.is_replayed = False  # whether the audit log holds nothing that the registry has not seen; see `Ledger`
        self._registry = registry
        self._changed = changed
        self._reached = float("-inf")
        self._looked = float("-inf")  # when the last look began that has ended, well or not
        self._read = float("-inf")  # when the registry was read last
        self._mark: object = None  # of the registry, just before that
        self._trouble = ""  # why it was out of reach at the last look
        self._told = float("-inf")  # when the log was told of it
        self._lock = trio.Lock()
        self._threads = trio.CapacityLimiter(_THREADS)
        self._used: dict[str, datetime] = {}

    @property
    def is_fresh(self) -> bool:
        """Whether the picture is new enough to let somebody in."""
        return self.is_replayed and trio.current_time() - self._reached <= OUT_OF_REACH_SECONDS

    def note_use(self, token_id: str) -> None:
        """A token was used just now."""
        self._used[token_id] = datetime.now(UTC)

    async def load(self) -> None:
        """Take the first picture.

        Raises:
            RegistryError: it is out of reach.
        """
        self.credentials = await trio.to_thread.run_sync(self._registry.snapshot, limiter=self._threads)
        self._reached = trio.current_time()

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        while True:
            await trio.sleep(POLL_SECONDS)
            await self.refresh()

    async def refresh(self) -> None:
        """Look at the registry now; when it is out of reach, the old picture stays.

        Those who come while somebody looks share one further look, also when that fails: strangers with made-up tokens
        cannot queue up looks.
        """
        came = trio.current_time()
        async with self._lock:
            if self._looked > came:
                return
            asked = trio.current_time()
            try:
                await self._look(asked)
            except RegistryError as error:
                self._tell(str(error), asked)
            else:
                self._tell("", asked)
            self._looked = asked

    def _tell(self, trouble: str, now: float) -> None:
        """Tell the log what has changed: a line for each look would be 300 000 a day."""
        if trouble and (trouble != self._trouble or now - self._told >= REMIND_SECONDS):
            logger.warning("registry out of reach, reason=%s", trouble)
            self._told = now
        elif self._trouble and not trouble:
            logger.info("registry in reach again")
        self._trouble = trouble

    async def _look(self, asked: float) -> None:
        mark = await trio.to_thread.run_sync(self._registry.mark, limiter=self._threads)
        if mark is not None and mark == self._mark and asked - self._read < UNREAD_SECONDS:
            self._reached = asked
            return
        generation = await trio.to_thread.run_sync(self._registry.generation, limiter=self._threads)
        is_changed = generation != self.credentials.generation
        if is_changed:
            self.credentials = await trio.to_thread.run_sync(self._registry.snapshot, limiter=self._threads)
        # Only now: what could not be read whole must not count as read at the next look, which sees the same mark.
        self._reached, self._read, self._mark = asked, asked, mark
        if is_changed:
            self._changed()

    async def run_notes(self) -> None:
        """Write down the last use of tokens, rarely, until cancelled."""
        while True:
            await trio.sleep(NOTE_SECONDS)
            used, self._used = self._used, {}
            try:
                if used:
                    await trio.to_thread.run_sync(self._registry.note_use, used, limiter=self._threads)
            except RegistryError as error:
                logger.warning("last use of tokens not noted, reason=%s", error)
