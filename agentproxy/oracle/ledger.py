"""Changes of credentials by the oracle itself, and the replay of what its registry has missed.

Until the log was read to its end nobody is let in: a registry from a backup may hold tokens that were revoked since.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import trio

from agentproxy.oracle.changes import Change
from agentproxy.oracle.journal import SignerJournal
from agentproxy.oracle.registry import Registry, RegistryError
from agentproxy.oracle.registryview import RegistryView
from agentproxy.oracle.signerlink import QUIET_SECONDS, SignerError, SignerLink
from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.signer_messages import FromSigner, ToSigner

__all__ = ["Ledger"]

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # recording and issuing take milliseconds; a disk that stalls takes longer
FIRST_SECONDS = 1.0  # between attempts at the start
# Later: what a command line that was killed has recorded and not made, and how much of the log a start must read.
CATCH_UP_SECONDS = 60.0

_NOT_REPLAYED = "the audit log was not replayed, reason=%s"

T = TypeVar("T")


class Ledger:
    """The one way in which this oracle changes credentials.

    Args:
        view: learns of each change at once, and that the replay is done.
    """

    def __init__(self, registry: Registry, link: SignerLink, view: RegistryView) -> None:
        self._registry = registry
        self._link = link
        self._view = view
        self._lock = trio.Lock()
        self._thread = trio.CapacityLimiter(1)  # our own, as the view's are: behind the lock there is one at a time

    async def ask(self, request: ToSigner) -> FromSigner:
        """Ask the signer, under an id of the connection's own.

        Raises:
            SignerError: it did not do it, or did not answer in time.
        """
        with trio.move_on_after(ANSWER_SECONDS):
            return await self._link.request(replace(request, id=self._link.next_id()))
        reason = f"the signer did not answer within {ANSWER_SECONDS:.0f} s"
        raise SignerError(FailureCode.NOT_OPERATIONAL, reason, retryable=True)

    async def change(self, change: Change, asserted: Asserted) -> None:
        """Record and make a change; on return this oracle acts on it.

        Raises:
            ConfigError: it cannot be.
            RefusedError: it may not be any more.
            BackendError: it was not recorded.
            RegistryError: it may have been recorded, and is not made yet.
        """
        await self._with_journal(asserted, lambda journal: self._registry.change(journal, change))

    async def catch_up(self) -> None:
        """Make the changes that the log knows and the registry does not, and open the doors.

        Raises:
            BackendError: the signer is away, or its log is not the one that the registry was made from.
            RegistryError: locked, full or gone.
        """
        number = await self._with_journal(Asserted(channel="oracle"), self._registry.catch_up)
        if number:
            logger.warning("the registry had missed changes of credentials, made now, number=%d", number)
        self._view.is_replayed = True

    async def run(self) -> None:
        """Catch up, again and again, until cancelled."""
        well, told = trio.current_time(), ""
        while True:
            try:
                await self.catch_up()
                well, told = trio.current_time(), ""
            except (BackendError, RegistryError) as error:
                is_due = trio.current_time() - well >= QUIET_SECONDS or not _may_pass(error)
                # The same reason once: before the first replay there is an attempt each second.
                logger.log(self._level(is_told=is_due and str(error) != told), _NOT_REPLAYED, error)
                told = str(error) if is_due else told
            await trio.sleep(CATCH_UP_SECONDS if self._view.is_replayed else FIRST_SECONDS)

    def _level(self, *, is_told: bool) -> int:
        if not is_told:
            return logging.DEBUG
        return logging.WARNING if self._view.is_replayed else logging.ERROR

    async def _with_journal(self, asserted: Asserted, work: Callable[[SignerJournal], T]) -> T:
        def ask(request: ToSigner) -> FromSigner:
            return trio.from_thread.run(functools.partial(self.ask, request))

        journal = SignerJournal(ask, asserted)
        async with self._lock:  # our own threads need not wait for each other at the database
            result = await trio.to_thread.run_sync(work, journal, limiter=self._thread)
        await self._view.refresh()
        return result


def _may_pass(error: BackendError | RegistryError) -> bool:
    return isinstance(error, SignerError) and error.retryable
