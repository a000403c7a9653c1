"""What `blind-oracle check` finds: one finding for each thing, the worst of them is the whole's."""

import enum
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from agentproxy.admin.servedkeys import ServedKeys
from agentproxy.oracle.config import OracleConfig
from agentproxy.protocol.expiry import ExpiryNotice
from agentproxy.protocol.values import frozen
from agentproxy.signer.config import SignerConfig

__all__ = ["Finding", "Level", "Subject", "of_notices", "worst"]

URGENT_DAYS = 7  # the last warning before something ends: somebody must act now


class Level(enum.IntEnum):
    """How bad it is; the numbers are the command's exit statuses, which monitoring systems read."""

    OK = 0
    WARNING = 1  # somebody should look at it
    CRITICAL = 2  # somebody must act: signatures fail, or will soon, or could be made by the wrong hands


@frozen
class Finding:
    """One thing that was looked at."""

    check: str  # the part: signer, policy, …
    level: Level
    message: str
    hint: str = ""


@frozen
class Subject:
    """The oracle that is looked at."""

    config: Path  # oracle.yaml
    oracle: OracleConfig
    signer: SignerConfig | None  # None: we may not read its configuration, or none is named
    served: ServedKeys
    now: datetime


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the whole."""
    return max((finding.level for finding in findings), default=Level.OK)


def of_notices(check: str, notices: Iterable[ExpiryNotice], hint: str, *, urgent: bool = True) -> list[Finding]:
    """Findings for what ends soon.

    Args:
        check: the part.
        notices: as `expiry_notices` gives them.
        hint: what to do about it.
        urgent: whether the whole service suffers, rather than one build server.
    """
    found = []
    for notice in notices:
        is_critical = urgent and notice.threshold <= URGENT_DAYS
        found.append(Finding(check, Level.CRITICAL if is_critical else Level.WARNING, str(notice), hint))
    return found
