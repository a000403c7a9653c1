"""Brings the journal's records to an oracle, at least once, as soon as one is there."""

import logging
import random
from collections.abc import Callable
from typing import NoReturn, Protocol

import trio

from agentproxy.protocol.errors import BlindOracleError
from agentproxy.protocol.journal import JournalRecord, Reported
from agentproxy.protocol.oracle_messages import Failed, Refused
from relay.journal import Journal
from relay.journalchain import JournalUnavailableError

__all__ = ["Delivery", "Reporter"]

logger = logging.getLogger(__name__)

# An oracle whose log is full, or that has heard too much of us: nobody waits for this, so there is no hurry.
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0


class Reporter(Protocol):
    """The way to an oracle; `relay.client.Client` is the real one."""

    async def reached(self) -> None:
        """Return once an oracle is there."""

    async def report(self, records: tuple[JournalRecord, ...]) -> Reported | Refused | Failed:
        """Bring records into an oracle's log, or raise."""


class Delivery:
    """Delivers one journal.

    Args:
        pen: whoever holds it may use the journal.

    Attributes:
        trouble: why the last attempt failed; empty when all is well.
    """

    def __init__(self, journal: Journal, pen: trio.Lock, reporter: Reporter) -> None:
        self.trouble = ""
        self._journal = journal
        self._pen = pen
        self._reporter = reporter
        self._wanted = trio.Event()
        self._delay = FIRST_RETRY_SECONDS

    def wake(self) -> None:
        """There is a new record, or a new connection."""
        self._wanted.set()

    async def run(self) -> NoReturn:
        """Deliver until cancelled."""
        while True:
            self._wanted = trio.Event()
            try:
                if await self._deliver_next():
                    self._delay, self.trouble = FIRST_RETRY_SECONDS, ""
                    continue
            except BlindOracleError as error:
                await self._pause(str(error))
                continue
            await self._wanted.wait()

    async def _deliver_next(self) -> bool:
        """Deliver one report as soon as there is somebody to deliver it to; False when there is nothing to deliver."""
        # Not left to whoever looks now and then whether an oracle is back: an outage may be over between two looks.
        await self._reporter.reached()
        records = await self._with_pen(self._journal.next_report)
        if not records:
            self._delay, self.trouble = FIRST_RETRY_SECONDS, ""  # what was in the way may have been moved away
            return False
        answer = await self._reporter.report(records)
        if isinstance(answer, Reported):
            await self._with_pen(lambda: self._journal.delivered(records))
            logger.info("journal delivered, through=%d", records[-1].sequence)
            return True
        reason = answer.reason if isinstance(answer, Refused) else f"the oracle failed: {answer.code.value}"
        raise JournalUnavailableError(f"records are not delivered yet: {reason}")

    async def _with_pen(self, work: Callable[[], tuple[JournalRecord, ...] | None]) -> tuple[JournalRecord, ...]:
        async with self._pen:
            return await trio.to_thread.run_sync(work) or ()

    async def _pause(self, problem: str) -> None:
        if problem != self.trouble:
            logger.warning("journal not delivered, reason=%s", problem)
        self.trouble = problem
        await trio.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311  no secret
        self._delay = min(2 * self._delay, LAST_RETRY_SECONDS)
