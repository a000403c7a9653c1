"""How long things took, as counts between fixed bounds: cheap to add to, and small to send.

An observation costs a search among sixteen numbers and two additions; whoever wants to see it reads it later.
"""

from bisect import bisect_left

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = ["BOUNDS", "Timings", "TimingsReport"]

# Seconds. An Ed25519 signature with its record takes 0.3 ms, one with RSA-4096 5 ms, a caller's patience 30 s.
BOUNDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@frozen
class TimingsReport:
    """The counts of one moment."""

    counts: tuple[int, ...]  # of those up to each bound and above the one before; the last: above all bounds
    total_us: int  # microseconds, all together

    def __post_init__(self) -> None:
        if len(self.counts) != len(BOUNDS) + 1 or min(self.counts) < 0 or self.total_us < 0:
            raise RemoteProtocolError(f"timings: expected {len(BOUNDS) + 1} counts and their sum, none below 0")


class Timings:
    """Counts that grow. Several threads may add: where two meet one may be lost, which nobody will miss."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        """Something took so long."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._total += seconds

    def report(self) -> TimingsReport:
        """What was observed so far."""
        return TimingsReport(tuple(self._counts), int(self._total * 1e6))
