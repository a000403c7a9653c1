"""All ways to oracles: which one is best, who is told what it says, and when that must be decided anew."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from math import inf

import trio

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.oracle_messages import Credentials
from relay.carrier import Carrier
from relay.choice import order, wanted
from relay.config import OracleAddress
from relay.connectionstate import ConnectionState, OracleState
from relay.credentials import CredentialStore
from relay.errors import RejectedError
from relay.lines import Dial, Lines
from relay.pending import STALL_SECONDS, PendingRequests, Question
from relay.renewal import Renewal
from relay.way import HeadKeeper, PermissionKeeper, Way

__all__ = ["DOWN_SECONDS", "Ways"]

logger = logging.getLogger(__name__)

# An oracle that is not operational for a moment, while its registry or its signer starts again, fails no build; what it
# answers to requests meanwhile is tried again for as long (`relay.client`).
DOWN_SECONDS = 4.0


class Ways:
    """Keeps connections up, and lets requests go to the best one.

    Args:
        oracles: the first that is well is the best one; the next one's connection is kept warm.
        dial: opens connections.
        keys_arrived: gets the keys that the oracle in use serves, whenever they may be others.
        heads: gets each end of an oracle's audit log.
        store: where `dial` finds its credentials, when they can be replaced.
        permission: gets what the oracle in use says about falling back; None: nobody falls back here.

    Attributes:
        pending: the requests that go over them.
        unreachable_since: since when, on trio's clock, no oracle has had us welcome; None: one has.
    """

    def __init__(  # noqa: PLR0913, PLR0917  whom to ask, and who keeps what is told
        self,
        oracles: Sequence[OracleAddress],
        dial: Dial,
        keys_arrived: Callable[[tuple[ServedKey, ...]], Awaitable[None]],
        heads: HeadKeeper,
        store: CredentialStore | None = None,
        permission: PermissionKeeper | None = None,
    ) -> None:
        self._keys_arrived = keys_arrived
        self._permission = permission
        self.pending = PendingRequests(self._stalled)
        self._ways = [Way(oracle, dial, self.pending, heads, self) for oracle in oracles]
        self._by_address = {way.address: way for way in self._ways}
        self._best: Way | None = None
        self._renewal = Renewal(store, lambda: [way.lines for way in self._ways if way.carrier is not None])
        self.unreachable_since: float | None = trio.current_time()
        self._keys: tuple[ServedKey, ...] | None = None  # of the oracle in use
        self._told = ("", False)  # its node, and whether we may fall back
        self._is_told = True  # the permission's keeper knows that
        self._keys_due = trio.Event()
        self._tasks: trio.Nursery | None = None
        self._timers: set[float] = set()  # when `changed` will be called
        self._has_twins = False
        self._met = trio.Event()
        self._reached = trio.Event()  # another one for each outage
        self._rejection: RejectedError | None = None
        self._down_since: float | None = None  # since when all that oracles say is that they are not operational

    async def met(self) -> None:
        """Return once an oracle has had us welcome.

        Raises:
            RejectedError: no oracle takes this relay.
        """
        await self._met.wait()
        if self._rejection is not None:
            raise self._rejection

    async def reached(self) -> None:
        """Return once an oracle has us welcome, at once if one has."""
        while self.unreachable_since is not None:
            await self._reached.wait()

    async def run(self) -> None:
        """Keep connections up until cancelled."""
        async with trio.open_nursery() as nursery:
            self._tasks = nursery
            self.changed()
            nursery.start_soon(self._follow_keys)
            nursery.start_soon(self.pending.keep_time)
            for way in self._ways:
                nursery.start_soon(way.run)

    async def _follow_keys(self) -> None:
        while True:
            await self._keys_due.wait()
            self._keys_due = trio.Event()
            await self._tell_permission()
            await self._keys_arrived(self._keys or ())

    async def _tell_permission(self) -> None:
        if self._permission is not None and not self._is_told:
            self._is_told = True
            node, may_fall_back = self._told
            await self._permission.told(node, allowed=may_fall_back)

    async def _tell_rejection(self, keeper: PermissionKeeper, rejection: RejectedError) -> None:
        await self._tell_permission()  # said before, and perhaps waiting behind a slow disk: later it would be untrue
        await keeper.rejected(rejection)

    def changed(self) -> None:
        """Choose anew where requests go (for the ways)."""
        now = trio.current_time()
        if any(way.rejection is None for way in self._ways):
            self._down_since = None
        candidates = [way.candidate() for way in self._ways]
        current = self._ways.index(self._best) if self._best is not None else None
        chosen = [self._ways[place] for place in order(candidates, current, now)]
        self._take(chosen[0] if chosen else None)
        for way, is_wanted in zip(self._ways, wanted(candidates, now), strict=True):
            way.want(wanted=is_wanted or way is self._best)
            way.take_stand(is_best=way is self._best)
        self._note_reach()
        self.pending.prefer([way.carrier for way in chosen if way.carrier is not None])
        for moment in {moment for way in self._ways for moment in way.moments() if now < moment < inf} - self._timers:
            self._timers.add(moment)
            if self._tasks is not None:
                self._tasks.start_soon(self._change_at, moment)

    async def _change_at(self, moment: float) -> None:
        await trio.sleep_until(moment)
        self._timers.discard(moment)
        self.changed()

    def _take(self, best: Way | None) -> None:
        if best is not None and (best.keys is not self._keys or best.fallback is not self._told[1]):
            self._keys, self._told = best.keys, (best.carrier.node if best.carrier else "", best.fallback)
            self._is_told = False
            self._keys_due.set()
        if best is not None and best is not self._best and len(self._ways) > 1:
            before = self._best.state if self._best is not None else None
            logger.log(
                logging.INFO if before is None or not before.problem else logging.WARNING,
                "requests go to another oracle, node=%s address=%s before=%s reason=%r",
                best.state.node, best.address, before.address if before else "-", before.problem if before else "",
            )  # fmt: skip
        self._best = best
        if best is not None:
            self._rejection = None
            self._met.set()

    def _note_reach(self) -> None:
        nodes = [way.carrier.node for way in self._ways if way.carrier is not None]
        if nodes:
            self.unreachable_since = None
            self._reached.set()
        elif self.unreachable_since is None:
            self.unreachable_since = trio.current_time()
            self._reached = trio.Event()
        self.pending.problem = self._problem()
        has_twins = len(set(nodes)) < len(nodes)
        if has_twins and not self._has_twins:
            logger.warning("two addresses lead to one oracle, or two oracles have one name, nodes=%s", ",".join(nodes))
        self._has_twins = has_twins

    def _problem(self) -> str:
        if len(self._ways) == 1:
            return self._ways[0].state.problem
        return "; ".join(f"{way.address}: {way.state.problem}" for way in self._ways if way.state.problem)

    def _stalled(self, carrier: Carrier) -> None:
        """A connection carries requests and no answers: give them to another oracle, too, if there is one."""
        way = self._by_address[carrier.oracle]
        if any(other.is_well for other in self._ways if other is not way):
            way.ail(f"it has answered nothing for {STALL_SECONDS:.0f} s")
            self.pending.move_on(carrier)

    def was_rejected(self, rejection: RejectedError) -> None:
        """Tell those who wait, unless another oracle may take this relay (for the ways)."""
        if any(way.candidate().is_connected or way.candidate().is_untried for way in self._ways):
            return
        if self._tasks is not None and self._permission is not None:
            self._tasks.start_soon(self._tell_rejection, self._permission, rejection)
        # One that is not operational may become so, and one that is away may come back: what counts is who is sure.
        if rejection.code is RejectionCode.NOT_OPERATIONAL and self._may_pass():
            return
        self.pending.reject(rejection)
        self._rejection = rejection
        self._met.set()

    def _may_pass(self) -> bool:
        if any(way.rejection is None for way in self._ways):
            return True
        if self._down_since is None:
            self._down_since = trio.current_time()
        return trio.current_time() - self._down_since < DOWN_SECONDS

    def renew_soon(self, credentials: Credentials, lines: Lines) -> None:
        """Store and use new credentials (for the ways)."""
        if self._tasks is not None:
            self._tasks.start_soon(self._renewal.take, credentials, lines)

    def has_other(self, question: Question) -> bool:
        """Whether there is an oracle that has not failed this request."""
        return any(way.candidate().is_connected and way.address not in question.avoid for way in self._ways)

    def ail(self, carrier: Carrier, problem: str) -> None:
        """The oracle behind a connection failed a request in a way that another may not."""
        self._by_address[carrier.oracle].ail(problem)

    @property
    def state(self) -> ConnectionState:
        """Whether requests can be sent, and where they go."""
        best = self._best
        if best is not None:
            state = best.state
            return ConnectionState(
                connected=True,
                address=best.address,
                since=state.since,
                node=state.node,
                clock_ahead_seconds=best.clock_ahead_seconds,
            )
        first = self._ways[0].state
        return ConnectionState(connected=False, address=first.address, since=first.since, problem=self._problem())

    @property
    def oracles(self) -> tuple[OracleState, ...]:
        """How each oracle is, in the configuration's order."""
        return tuple(way.state for way in self._ways)
