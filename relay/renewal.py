"""New credentials from an oracle: stored, used with the oracle that sent them, which confirms them, then with all.

Until they are confirmed the old ones stay good, so whatever dies at any point, the exchange begins anew.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.oracle_messages import Credentials
from relay.credentials import CredentialStore
from relay.errors import LinkLostError, RejectedError

__all__ = ["Renewal"]

logger = logging.getLogger(__name__)

# How often new credentials are tried at once; later, the next connection uses them anyway.
RETRY_SECONDS = (1.0, 5.0, 30.0, 60.0)


class Line(Protocol):
    """The connections to one oracle; `relay.lines.Lines` is the real one."""

    async def succeed(self) -> LinkLostError | RejectedError | ConfigError | None:
        """Connect with the present credentials in place of the old ones; None when that worked."""


class Renewal:
    """Takes what oracles send.

    Args:
        store: where the credentials are; None: somebody else keeps them.
        lines: to all oracles.
    """

    def __init__(self, store: CredentialStore | None, lines: Callable[[], Sequence[Line]]) -> None:
        self._store = store
        self._lines = lines
        self._is_busy = False

    async def take(self, credentials: Credentials, sender: Line) -> None:
        """Put new credentials in the place of the present ones; no connection ends before the next is there."""
        if self._store is None:
            logger.warning("the oracle sent new credentials, and relay.yaml names none that it could replace")
            return
        if self._is_busy:
            # Two oracles may both find that it is time; what nobody uses they revoke when the other set is used.
            logger.info("a second set of new credentials is not needed")
            return
        self._is_busy = True
        try:
            await self._replace(self._store, credentials, sender)
        finally:
            self._is_busy = False

    async def _replace(self, store: CredentialStore, credentials: Credentials, sender: Line) -> None:
        try:
            before = await trio.to_thread.run_sync(store.renew, credentials)
        except ConfigError as error:
            logger.error("new credentials are not stored, the old ones stay: %s", error)  # noqa: TRY400  no bug
            return
        logger.info("new credentials stored, expires=%s", credentials.expires)
        for pause in RETRY_SECONDS:
            problem = await sender.succeed()
            if problem is None:
                await trio.to_thread.run_sync(store.tidy)
                await self._tell_others(sender)
                return
            logger.warning("no connection with the new credentials yet, reason=%s", problem)
            if isinstance(problem, RejectedError) and problem.code is not RejectionCode.NOT_OPERATIONAL:
                await self._restore(store, before)
                return
            await trio.sleep(pause)
        # The next connection, whenever that is made, uses them.

    async def _restore(self, store: CredentialStore, before: str) -> None:
        try:
            await trio.to_thread.run_sync(store.restore, before)
        except OSError as error:
            logger.error("the earlier credentials cannot be put back: %s: %s", error.filename, error.strerror)  # noqa: TRY400  no bug
        except ConfigError as error:
            logger.error("the earlier credentials cannot be put back: %s", error)  # noqa: TRY400  no bug

    async def _tell_others(self, sender: Line) -> None:
        """A connection with the old credentials would end with these, perhaps in the middle of some work."""
        for line in self._lines():
            if line is not sender:
                problem = await line.succeed()
                if problem is not None:
                    logger.info("another oracle keeps the old connection, reason=%s", problem)
