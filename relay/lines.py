"""The connections to one oracle: the one in use and, while credentials are renewed, the one that takes its place.

A renewal loses no request: the new connection is welcome before the old one ends, and that one brings its last answers.
"""

from typing import NoReturn, Protocol

import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.relay_messages import Hello
from relay.config import OracleAddress
from relay.errors import LinkLostError, RejectedError
from relay.link import Link, LinkOwner

__all__ = ["Dial", "Lines"]

# How long the oracle may take to welcome renewed credentials, which it records first, and how long answers may still
# come over the old connection.
SUCCESSION_SECONDS = 20.0
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
    """Opens, replaces and ends connections to one oracle.

    Args:
        oracle: the other end.
        dial: opens them.
        owner: gets what arrives over each.
    """

    def __init__(self, oracle: OracleAddress, dial: Dial, owner: LinkOwner) -> None:
        self._oracle = oracle
        self._dial = dial
        self._owner = owner
        self._line: _Line | None = None  # the one in use
        self._successor: _Line | None = None  # another, which is not welcome yet
        self._tasks: trio.Nursery | None = None
        self._turn = trio.Event()  # another line is in use, or one has ended

    async def use(self) -> NoReturn:
        """Use the oracle until the last connection ends: a renewal puts another in the place of the first.

        Raises:
            LinkLostError, RejectedError: why it ended, or never came up.
            ConfigError: the credentials cannot be read.
        """
        hello = self._dial.hello()  # before there is a stream that its failure would leave open
        stream = await self._dial.connect(self._oracle)
        async with trio.open_nursery() as nursery:
            line = self._line = _Line(Link(stream, hello, self._owner))
            self._tasks = nursery
            nursery.start_soon(self._run_line, line)
            while not (line := self._line).ended.is_set():
                # Whatever comes first: one that was replaced may stay for a minute, for what is in flight over it.
                self._turn = trio.Event()
                await self._turn.wait()
            self._line = self._tasks = None
            nursery.cancel_scope.cancel()  # a replaced connection that has not ended yet
        raise line.error

    def welcomed(self, link: Link) -> None:
        """The oracle took us over `link`, which is the one in use from now on."""
        if self._successor is not None and self._successor.link is link:
            self._line, self._successor = self._successor, None
            self._line.settled.set()
            self._turn.set()

    async def _run_line(self, line: _Line) -> None:
        try:
            await line.link.run()
        except (LinkLostError, RejectedError) as error:
            line.error = error
        finally:
            line.settled.set()
            line.ended.set()
            self._turn.set()

    async def succeed(self) -> LinkLostError | RejectedError | ConfigError | None:
        """Put a connection with the present credentials in the place of the one in use; None when that worked."""
        old = self._line
        if old is None or self._tasks is None:
            return LinkLostError("there is no connection to replace")
        try:
            hello = self._dial.hello()
            stream = await self._dial.connect(self._oracle)
            line = _Line(Link(stream, hello, self._owner))
        except (LinkLostError, ConfigError) as error:
            return error
        if old.ended.is_set() or self._tasks is None:
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
        self._tasks.start_soon(self._end_late, old)
        return None

    async def _end_late(self, old: _Line) -> None:
        with trio.move_on_after(LEAVING_SECONDS):
            await old.ended.wait()
        old.link.end("it was replaced, and its last answers did not come")
