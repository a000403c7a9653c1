"""The connections to one oracle: the one in use and, while credentials are renewed, the one that takes its place.

A renewal loses no request: the new connection is welcome before the old one ends, and that one brings its last answers.
"""

import logging
from collections.abc import Callable
from typing import NoReturn, Protocol

import trio

from agentproxy.protocol.errors import ConfigError, LocalProtocolError
from agentproxy.protocol.messages import Credentials, Hello, RejectionCode
from relay.config import OracleAddress
from relay.credentials import CredentialStore
from relay.link import Link, LinkLostError, LinkOwner, RejectedError

__all__ = ["Dial", "Lines"]

logger = logging.getLogger(__name__)

# Renewed credentials: how long the oracle may take to welcome them, which it records first; how often it is tried at
# once (later, the next connection uses them anyway); and how long answers may still come over the old connection.
SUCCESSION_SECONDS = 20.0
SUCCESSION_RETRY_SECONDS = (1.0, 5.0, 30.0, 60.0)
LEAVING_SECONDS = 60.0


class Dial(Protocol):
    """How to reach an oracle; `relay.dial.Dialer` does it over TLS."""

    def hello(self) -> Hello:
        """The first message."""
        ...

    async def connect(self, oracle: OracleAddress) -> trio.abc.Stream:
        """A stream that is ready for frames."""
        ...


class _Line:
    """A connection and its end."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.settled = trio.Event()  # it was welcome, or has ended
        self.ended = trio.Event()
        self.error: LinkLostError | RejectedError = LinkLostError("the connection ended")


class Lines:
    """Opens, replaces and ends connections.

    Args:
        dial: opens them.
        store: where `dial` finds its credentials, when they can be replaced.
        owner: gets what arrives over each.
        detach: called at the end of each.
    """

    def __init__(
        self, dial: Dial, store: CredentialStore | None, owner: LinkOwner, detach: Callable[[Link], None]
    ) -> None:
        self._dial = dial
        self._store = store
        self._owner = owner
        self._detach = detach
        self._line: _Line | None = None  # the one in use
        self._oracle: OracleAddress | None = None  # its other end
        self._successor: _Line | None = None  # another, which is not welcome yet
        self._tasks: trio.Nursery | None = None

    async def use(self, oracle: OracleAddress) -> NoReturn:
        """Use one oracle until its last connection ends: a renewal puts another in the place of the first.

        Raises:
            LinkLostError, RejectedError: why it ended, or never came up.
            ConfigError: the credentials cannot be read.
        """
        stream = await self._dial.connect(oracle)
        self._oracle = oracle
        async with trio.open_nursery() as nursery:
            line = self._line = _Line(Link(stream, self._dial.hello(), self._owner))
            self._tasks = nursery
            nursery.start_soon(self._run_line, line)
            await line.ended.wait()
            while line is not self._line:
                line = self._line
                await line.ended.wait()
            nursery.cancel_scope.cancel()  # a renewal on its way, and a replaced connection that has not ended yet
        raise line.error

    def welcomed(self, link: Link) -> OracleAddress:
        """The oracle took us over `link`, which is the one in use from now on; which oracle that is."""
        if self._successor is not None and self._successor.link is link:
            self._line, self._successor = self._successor, None
            self._line.settled.set()
        if self._oracle is None:
            raise LocalProtocolError("a welcome without a connection")
        return self._oracle

    def renew_soon(self, credentials: Credentials) -> None:
        """Store new credentials and connect with them, before the connection with the old ones ends."""
        if self._tasks is not None:
            self._tasks.start_soon(self._renew, credentials)

    async def _run_line(self, line: _Line) -> None:
        try:
            await line.link.run()
        except (LinkLostError, RejectedError) as error:
            line.error = error
        finally:
            self._detach(line.link)
            line.settled.set()
            line.ended.set()

    async def _renew(self, credentials: Credentials) -> None:
        if self._store is None:
            logger.warning("the oracle sent new credentials, and relay.yaml names none that it could replace")
            return
        try:
            before = await trio.to_thread.run_sync(self._store.replace, credentials)
        except ConfigError as error:
            logger.error("new credentials are not stored, the old ones stay: %s", error)  # noqa: TRY400  no bug
            return
        logger.info("new credentials stored, expires=%s", credentials.expires)
        for pause in SUCCESSION_RETRY_SECONDS:
            problem = await self._succeed()
            if problem is None:
                await trio.to_thread.run_sync(self._store.tidy)
                return
            logger.warning("no connection with the new credentials yet, reason=%s", problem)
            if isinstance(problem, RejectedError) and problem.code is not RejectionCode.NOT_OPERATIONAL:
                await trio.to_thread.run_sync(self._store.restore, before)
                return
            await trio.sleep(pause)
        # The next connection, whenever that is made, uses them.

    async def _succeed(self) -> LinkLostError | RejectedError | ConfigError | None:
        """Put a new connection in the place of the present one; None when that worked."""
        old, oracle = self._line, self._oracle
        if old is None or oracle is None or self._tasks is None:
            return LinkLostError("there is no connection to replace")
        try:
            stream = await self._dial.connect(oracle)
            line = _Line(Link(stream, self._dial.hello(), self._owner))
        except (LinkLostError, ConfigError) as error:
            return error
        if old.ended.is_set():
            await trio.aclose_forcefully(stream)
            return LinkLostError("the present connection ended meanwhile")
        self._successor = line
        self._tasks.start_soon(self._run_line, line)
        with trio.move_on_after(SUCCESSION_SECONDS):
            await line.settled.wait()
        if self._line is not line:
            line.link.end("no welcome in time")
            await line.ended.wait()
            return line.error
        with trio.move_on_after(LEAVING_SECONDS):
            await old.ended.wait()
        old.link.end("it was replaced, and its last answers did not come")
        return None
