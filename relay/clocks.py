"""Whether this host's clock and an oracle's agree: certificates and tokens begin and end by them."""

import logging
from datetime import UTC, datetime

from agentproxy.protocol.oracle_messages import Welcome

__all__ = ["MAX_CLOCK_SECONDS", "ahead_seconds"]

logger = logging.getLogger(__name__)

# More wrong than this, and certificates and tokens begin to fail for reasons that nobody understands.
MAX_CLOCK_SECONDS = 120


def ahead_seconds(welcome: Welcome) -> float:
    """How far our clock is ahead of an oracle's that has just had us welcome; where it is far, the log says so."""
    difference = (datetime.now(UTC) - welcome.time).total_seconds()
    if abs(difference) > MAX_CLOCK_SECONDS:
        logger.warning(
            "this clock and the oracle's differ, seconds=%.0f this_clock_is=%s node=%s",
            abs(difference), "ahead" if difference > 0 else "behind", welcome.node,
        )  # fmt: skip
    return difference
