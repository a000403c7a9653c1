"""How the way to the oracle is: the client keeps it, `status` shows it."""

from dataclasses import dataclass
from datetime import datetime

__all__ = ["ConnectionState"]


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """How the way to the oracle is."""

    connected: bool
    address: str
    since: datetime
    node: str = ""
    problem: str = ""  # why not connected
