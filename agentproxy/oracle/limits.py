"""How many signatures a runner and each of its tokens may have: token buckets, in memory, per node.

Buckets belong to names that the registry gave out, never to something a caller chooses, so neither a new
connection nor an invented field opens a fresh one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentproxy.oracle.caller import Caller
from agentproxy.oracle.policy import RunnerRule
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.errors import LimitedError

__all__ = ["Bucket", "Limits"]

_BURST_SECONDS = 2  # without a burst of its own, a bucket holds what its rate gives in this time
# Far more than tokens exist. Beyond it those that were untouched longest are forgotten, full or not: nobody has his own
# forgotten, since nine thousand others would have to be touched after it, and names are the registry's.
_MOST_BUCKETS = 10_000


@dataclass(slots=True)
class Bucket:
    """What is left of a number that time brings back."""

    level: float  # left at `stamp`
    stamp: float  # seconds

    def fill(self, now: float, rate: float, size: float) -> None:
        """Add what has come back until now: `rate` a second, up to `size`."""
        self.level = min(size, self.level + (now - self.stamp) * rate)
        self.stamp = now


class Limits:
    """The buckets of one node.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def take(self, caller: Caller, rule: RunnerRule) -> Sequence[Bucket]:
        """Count one signature, in both buckets or in none.

        Returns:
            The buckets, for `give_back`.

        Raises:
            LimitedError: one of them is empty; it carries the time until that one has something.
        """
        # No await between the count and the reservation: two callers must not both see the last free signature.
        asked = (
            ("rate", caller.runner, rule.rate, rule.burst),
            ("token_rate", caller.token, rule.token_rate, rule.token_burst),
        )
        wanted: list[Bucket] = []
        for kind, name, rate, burst in asked:
            if rate is None:
                continue
            bucket = self._bucket(kind, name, rate, burst)
            if bucket.level < 1:
                wait = int((1 - bucket.level) / rate * 1000) + 1
                reason = f"runners.{caller.runner}.{kind}: more than {rate} signatures a second"
                raise LimitedError(RefusalCode.RATE_LIMITED, reason, wait)
            wanted.append(bucket)
        for bucket in wanted:
            bucket.level -= 1
        return wanted

    def give_back(self, buckets: Sequence[Bucket]) -> None:
        """Uncount a signature that came no further."""
        for bucket in buckets:
            bucket.level += 1

    def _bucket(self, kind: str, name: str, rate: int, burst: int | None) -> Bucket:
        now = self._clock()
        size = float(burst if burst is not None else rate * _BURST_SECONDS)
        bucket = self._buckets.get((kind, name))
        if bucket is None:
            self._forget_idle(now)
            bucket = self._buckets[kind, name] = Bucket(size, now)
        bucket.fill(now, rate, size)
        return bucket

    def _forget_idle(self, now: float) -> None:
        if len(self._buckets) >= _MOST_BUCKETS:
            oldest = sorted(self._buckets, key=lambda name: self._buckets[name].stamp - now)
            for name in oldest[: _MOST_BUCKETS // 10]:
                del self._buckets[name]
