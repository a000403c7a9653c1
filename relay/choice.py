"""Which oracle requests go to, and which are worth a connection. Values in, a decision out."""

from collections.abc import Sequence

from agentproxy.protocol.values import frozen

__all__ = ["Candidate", "order", "wanted"]

# The best one, and another that can take over without a handshake. More would cost every oracle idle connections.
CONNECTIONS = 2


@frozen
class Candidate:
    """One oracle, as far as the choice depends on it. Times are seconds on one clock."""

    is_connected: bool  # and takes requests
    is_untried: bool = False  # nothing bad is known of it yet
    settled_at: float = 0.0  # welcome for so long that nobody need fear for it
    ails_until: float = float("-inf")  # it failed lately in a way that others may not


def order(candidates: Sequence[Candidate], current: int | None, now: float) -> tuple[int, ...]:
    """The places of the oracles that take requests, best first.

    The configuration's order counts. An oracle that came back waits until it has settled: one that greets and dies
    must not draw the work to itself again and again. Ailing ones come last.
    """
    well = [place for place, one in enumerate(candidates) if one.is_connected and one.ails_until <= now]
    ailing = [place for place, one in enumerate(candidates) if one.is_connected and one.ails_until > now]
    if current in well:
        settled = [place for place in well if place == current or candidates[place].settled_at <= now]
        well.remove(settled[0])
        well.insert(0, settled[0])
    return (*well, *ailing)


def wanted(candidates: Sequence[Candidate], now: float) -> tuple[bool, ...]:
    """For each oracle whether it is worth a connection: fewer than CONNECTIONS that come before it are well."""
    found: list[bool] = []
    good = 0
    for one in candidates:
        found.append(good < CONNECTIONS)
        good += one.is_untried or (one.is_connected and one.ails_until <= now)
    return tuple(found)
