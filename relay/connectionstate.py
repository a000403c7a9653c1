"""How the way to the oracles is: the client keeps it, `status` shows it."""

import enum
from datetime import datetime

from agentproxy.protocol.values import frozen

__all__ = ["ConnectionState", "OracleState", "Standing"]


@frozen
class ConnectionState:
    """Whether requests can be sent, and where they go."""

    connected: bool
    address: str
    since: datetime
    node: str = ""
    problem: str = ""  # why not connected
    clock_ahead_seconds: float | None = None  # of this host's clock, to the oracle's; about a round trip too much


class Standing(enum.StrEnum):
    """What an oracle is to this relay just now."""

    BEST = "best"  # requests go there
    WARM = "warm"  # connected, for when the best one fails
    AILING = "ailing"  # connected, and asked only when no other is there, for a reason of its own
    DRAINING = "draining"  # it goes away and finishes what it has
    AWAY = "away"  # no connection, for a reason that is told
    SPARE = "spare"  # not needed: two that come before it are well


@frozen
class OracleState:
    """One oracle of the configuration."""

    address: str
    standing: Standing
    since: datetime  # when it came to that
    node: str = ""  # what it called itself the last time
    problem: str = ""  # why it is ailing or away
    clock_ahead_seconds: float | None = None  # as above, at the last welcome
