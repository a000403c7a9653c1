"""When to warn that a key, certificate or token is about to expire: 60, 30 and 7 days before."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from agentproxy.protocol.values import frozen

__all__ = ["THRESHOLD_DAYS", "ExpiryNotice", "expiry_notices", "threshold"]

THRESHOLD_DAYS = (60, 30, 7)
_DAY = timedelta(days=1)


@frozen
class ExpiryNotice:
    """Something expires soon, or has expired."""

    what: str  # such as "key modern" or "token 1f2e3d4c5b6a of builder-1"
    expires: datetime
    days: int  # whole days that are left; 0 on the last day, and once it has expired
    threshold: int  # 60, 30 or 7; 0 once it has expired

    @property
    def has_expired(self) -> bool:
        """Whether it is too late."""
        return self.threshold == 0

    def __str__(self) -> str:
        if self.has_expired:
            return f"{self.what} expired on {self.expires:%Y-%m-%d}"
        left = "today" if self.days == 0 else "in 1 day" if self.days == 1 else f"in {self.days} days"
        return f"{self.what} expires {left}, on {self.expires:%Y-%m-%d}"


def threshold(expires: datetime | None, now: datetime) -> int | None:
    """The nearest threshold that has been passed: 60, 30, 7, or 0 when it has expired; None when all is well.

    Whoever warns in a log remembers the last answer and warns again when it changes: once per threshold.
    """
    if expires is None:
        return None
    left = expires - now
    if left <= timedelta(0):
        return 0
    return min((days for days in THRESHOLD_DAYS if left <= days * _DAY), default=None)


def expiry_notices(expiries: Mapping[str, datetime | None], now: datetime) -> list[ExpiryNotice]:
    """What is to be warned about now, the most urgent first.

    Args:
        expiries: what expires when; None never does.
        now: the present time.
    """
    found = []
    for what, expires in expiries.items():
        passed = threshold(expires, now)
        if expires is not None and passed is not None:
            found.append(ExpiryNotice(what, expires, max(0, (expires - now) // _DAY), passed))
    return sorted(found, key=lambda notice: (notice.expires, notice.what))
