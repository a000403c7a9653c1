"""One oracle as this relay sees it: connected or not, well or not, and tried again after each end."""

import logging
import random
from datetime import UTC, datetime
from math import inf
from typing import NoReturn, Protocol

import trio

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.journal import Reported
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.messages import FromOracle
from agentproxy.protocol.oracle_messages import Credentials, Drain, KeysChanged, Rejected, Signed, Welcome
from agentproxy.protocol.relay_messages import Ping, Pong
from agentproxy.protocol.seal_messages import Sealed
from relay.carrier import Carrier
from relay.choice import Candidate
from relay.clocks import ahead_seconds
from relay.config import OracleAddress
from relay.connectionstate import OracleState, Standing
from relay.errors import LinkLostError, RejectedError
from relay.lines import Dial, Lines
from relay.link import Link
from relay.pending import PendingRequests

__all__ = ["HeadKeeper", "PermissionKeeper", "Way", "WayOwner"]

logger = logging.getLogger(__name__)

# The first retry is quick, since most ends are restarts; then twice as long each time.
FIRST_RETRY_SECONDS = 0.1
# With nobody waiting, a thousand relays that lost their oracle must not hammer it when it comes back.
IDLE_RETRY_SECONDS = 15.0
# With a gpg waiting and no other oracle to ask, several tries must fit into its deadline.
BUSY_RETRY_SECONDS = 2.0
# A connection that lives shorter does not end the back-off: an oracle that greets and dies is not well.
STABLE_SECONDS = 5.0
# So long an oracle that came back must be welcome before the work of another returns to it; twice that at most, since
# a thousand relays must not return in one moment.
RETURN_SECONDS = 5.0
# One that fails requests, which another may not, is asked second for so long; then twice as long each time. What is
# asked at the end of that time costs a failure one more round trip, not a signature.
AILING_SECONDS = 5.0
MAX_AILING_SECONDS = 60.0
# A third oracle's connection goes when two that come before it have been well for so long: it was not easy to get.
SPARE_SECONDS = 60.0


class HeadKeeper(Protocol):
    """Who remembers the ends of audit logs; `relay.heads.Heads` does."""

    def note(self, head: Head) -> None:
        """An answer's head; answers may overtake each other."""

    def welcomed(self, head: Head) -> None:
        """A new connection's first head."""


class PermissionKeeper(Protocol):
    """Who remembers whether this runner may fall back; `relay.permission.Permission` does."""

    async def told(self, node: str, *, allowed: bool) -> None:
        """What an oracle's policy says."""

    async def rejected(self, error: RejectedError) -> None:
        """An oracle answered, and does not take this relay; no other does."""


class WayOwner(Protocol):
    """Who has several ways and chooses among them; `relay.ways.Ways` does."""

    def changed(self) -> None:
        """Another way may be the best one now, or its keys are others."""

    def was_rejected(self, rejection: RejectedError) -> None:
        """An oracle does not take this relay."""

    def renew_soon(self, credentials: Credentials, lines: Lines) -> None:
        """An oracle sent new credentials."""


class Way:
    """The way to one oracle.

    Args:
        oracle: where it is.
        dial: opens connections.
        pending: the requests of all ways.
        heads: gets each end of the oracle's audit log.
        owner: learns what changes.

    Attributes:
        keys: what the oracle serves to this runner, as it said last.
        fallback: whether its policy lets this runner sign by itself.
        carrier: the connection that requests may go over; None: there is none.
        rejection: why the oracle does not take this relay, if that was its last word.
        clock_ahead_seconds: how far this clock was ahead of the oracle's at the last welcome.
    """

    def __init__(
        self, oracle: OracleAddress, dial: Dial, pending: PendingRequests, heads: HeadKeeper, owner: WayOwner
    ) -> None:
        self.address = oracle.address
        self.keys: tuple[ServedKey, ...] = ()
        self.fallback = False
        self.carrier: Carrier | None = None
        self.rejection: RejectedError | None = None
        self.clock_ahead_seconds: float | None = None
        self.lines = Lines(oracle, dial, self)
        self._pending = pending
        self._heads = heads
        self._owner = owner
        self._carriers: dict[Link, Carrier] = {}  # also those that are being replaced
        self._wanted: trio.Event = trio.Event()
        self._was_tried = False
        self._was_welcome = False
        self._settled_at = 0.0
        self._ails_until = -inf
        self._spare_at = inf
        self._ailments = 0
        self.state = OracleState(self.address, Standing.AWAY, datetime.now(UTC), problem="no answer yet")

    def candidate(self) -> Candidate:
        """What the choice among ways depends on."""
        return Candidate(
            is_connected=self.carrier is not None and self.carrier.is_open,
            is_untried=not self._was_tried,
            settled_at=self._settled_at,
            ails_until=self._ails_until,
        )

    @property
    def is_well(self) -> bool:
        """Whether it takes requests, and nothing speaks against it."""
        return self.candidate().is_connected and self._ails_until <= trio.current_time()

    def moments(self) -> tuple[float, ...]:
        """When the choice may come out otherwise although nothing happened, on trio's clock."""
        return (self._settled_at, self._ails_until, self._spare_at)

    def want(self, *, wanted: bool) -> None:
        """Whether this oracle is worth a connection; one that is there stays for a while without."""
        now = trio.current_time()
        if wanted:
            self._wanted.set()
            self._spare_at = inf
        elif self._wanted.is_set():
            self._wanted = trio.Event()
            self._spare_at = now + SPARE_SECONDS
        elif self.carrier is not None and self._spare_at <= now:
            self._pending.retire(self.carrier, "two oracles that come before it are well")

    async def run(self) -> NoReturn:
        """Keep a connection up while it is wanted, until cancelled."""
        tries = 0
        while True:
            await self._wanted.wait()
            started, self._was_welcome = trio.current_time(), False
            try:
                await self.lines.use()
            except (LinkLostError, RejectedError, ConfigError) as error:
                self._lost(error)
            if trio.current_time() - started >= STABLE_SECONDS and self._was_welcome:
                tries = 0
            await self._pause(tries)
            tries += 1

    async def _pause(self, tries: int) -> None:
        # Jitter, so that many relays that lost one oracle together do not come back together.
        factor = random.uniform(0.5, 1.0)  # noqa: S311  no secret
        idle = min(FIRST_RETRY_SECONDS * 2.0 ** min(tries, 16), IDLE_RETRY_SECONDS) * factor
        busy = min(idle, BUSY_RETRY_SECONDS * factor)
        await trio.sleep(busy)
        with trio.move_on_after(idle - busy):
            await self._pending.stuck()

    def _lost(self, error: LinkLostError | RejectedError | ConfigError) -> None:
        problem = str(error)
        self._was_tried = True
        self.rejection = error if isinstance(error, RejectedError) else None
        if not self._wanted.is_set():
            self._owner.changed()
            return
        # The same problem once: an oracle that is away for a night must not fill the log.
        level = logging.DEBUG if problem == self.state.problem else logging.WARNING
        logger.log(level, "no connection to the oracle, address=%s reason=%s", self.address, problem)
        self._stand(Standing.AWAY, problem)
        self._owner.changed()
        if self.rejection is not None:
            self._owner.was_rejected(self.rejection)

    def take_stand(self, *, is_best: bool) -> None:
        """Say for `status` what this oracle is just now."""
        if self.carrier is None and not self._wanted.is_set():
            self._stand(Standing.SPARE)
        elif self.carrier is None:
            if self.state.standing not in {Standing.AWAY, Standing.SPARE}:
                self._stand(Standing.AWAY, "the connection ended")
        elif not self.carrier.is_open:
            self._stand(Standing.DRAINING, self.carrier.farewell)
        elif self._ails_until <= trio.current_time():
            self._stand(Standing.BEST if is_best else Standing.WARM)

    def _stand(self, standing: Standing, problem: str = "") -> None:
        node = self.carrier.node if self.carrier is not None else self.state.node
        if (standing, problem, node) != (self.state.standing, self.state.problem, self.state.node):
            self.state = OracleState(self.address, standing, datetime.now(UTC), node, problem, self.clock_ahead_seconds)

    def ail(self, problem: str) -> None:
        """The oracle failed a request in a way that another may not: the others come first for a while."""
        if self._ails_until <= trio.current_time():
            self._ails_until = trio.current_time() + min(AILING_SECONDS * 2.0**self._ailments, MAX_AILING_SECONDS)
            self._ailments = min(self._ailments + 1, 16)
            logger.warning("an oracle ails, node=%s address=%s reason=%s", self.state.node, self.address, problem)
            self._stand(Standing.AILING, problem)
            self._owner.changed()

    def is_busy(self) -> bool:
        """Whether somebody waits for an answer (for the link)."""
        return len(self._pending) > 0

    async def welcomed(self, link: Link, welcome: Welcome) -> None:
        """Take the link into use (for the link)."""
        await trio.lowlevel.checkpoint()
        is_return, self._was_tried = self._was_tried and self.carrier is None, True
        self._was_welcome, self.rejection = True, None
        self.lines.welcomed(link)
        replaced, self.carrier = self.carrier, Carrier(link, self.address, welcome.node, welcome.max_in_flight)
        self._carriers[link] = self.carrier
        self.keys, self.fallback = welcome.keys, welcome.fallback
        logger.info("connected, address=%s node=%s runner=%s", self.address, welcome.node, welcome.runner)
        if welcome.head is not None:
            self._heads.welcomed(welcome.head)
        self.clock_ahead_seconds = ahead_seconds(welcome)
        if is_return:
            self._settled_at = trio.current_time() + RETURN_SECONDS * random.uniform(1.0, 2.0)  # noqa: S311  no secret
        self._owner.changed()
        if replaced is not None:
            self._pending.retire(replaced, "a connection with renewed credentials has taken its place")

    async def received(self, link: Link, message: FromOracle) -> None:
        """Handle what the oracle says (for the link)."""
        match message:
            case Signed() | Sealed() | Reported():
                self._ailments = 0
                carrier = self._carriers[link]
                if message.id in carrier.in_flight:  # else an oracle could push all other nodes' heads out at will
                    self._heads.note(message.head)
                self._pending.settle(carrier, message)
            case KeysChanged():
                self.keys, self.fallback = message.keys, message.fallback
                self._owner.changed()
                await trio.lowlevel.checkpoint()
            case Credentials():
                self._owner.renew_soon(message, self.lines)
            case Drain():
                self._drain(self._carriers[link])
            case Welcome() | Rejected() | Ping() | Pong():
                raise RemoteProtocolError("the link handles these")
            case _:
                self._pending.settle(self._carriers[link], message)

    def _drain(self, carrier: Carrier) -> None:
        if not carrier.is_open:
            return  # it said so before, or is being left
        logger.info("the oracle goes away for maintenance, node=%s address=%s", carrier.node, self.address)
        self._pending.retire(carrier, "the oracle goes away for maintenance")
        self._owner.changed()

    def ended(self, link: Link) -> None:
        """Give back what was in flight over the link (for the link)."""
        carrier = self._carriers.pop(link, None)
        if carrier is not None:
            self._pending.lost(carrier)
            if carrier is self.carrier:
                self.carrier = None
            self._owner.changed()
