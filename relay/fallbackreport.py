"""What `status` tells about falling back."""

from collections.abc import Iterator
from datetime import datetime

from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.values import frozen

__all__ = ["FallbackKeyReport", "FallbackReport", "JournalReport", "fallback_lines"]


@frozen
class FallbackKeyReport:
    """A key of the host's own that may sign."""

    name: str
    fingerprint: Fingerprint
    user_id: str
    expires: datetime | None = None


@frozen
class JournalReport:
    """How the journal is."""

    journal: str  # its name; empty: nothing was ever signed here
    records: int
    undelivered: int  # that no oracle has yet
    trouble: str = ""


@frozen
class FallbackReport:
    """Whether this host signs by itself, and why, or why not."""

    mode: str  # never, auto, forced
    active: bool
    why_not: str  # empty when active
    reason: str  # what the operator said, or relay.yaml
    allowed: bool  # by the oracle's policy, as heard last
    allowed_by: str
    switched_by: str
    switched: datetime | None
    seconds_left: int | None  # of the operator's switch
    keys: tuple[FallbackKeyReport, ...]
    refused: tuple[str, ...]
    journal: JournalReport


def fallback_lines(report: FallbackReport) -> Iterator[str]:
    """For people; the first line says what matters."""
    left = "" if report.seconds_left is None else f", for another {_duration(report.seconds_left)}"
    by = f" by {report.switched_by}" if report.switched_by else ""
    if report.mode == "never" and not by:
        yield "  fallback: never"
    elif report.active:
        yield f"  FALLBACK ACTIVE ({report.mode}{left}): this host signs with its own key; {report.reason}{by}"
    else:
        yield f"  fallback: not active, mode {report.mode}{left}{by}: {report.why_not}"
    for key in report.keys:
        expires = f", expires {key.expires:%Y-%m-%d}" if key.expires else ""
        yield f"    own key {key.fingerprint}{expires} {key.user_id}"
    for refused in report.refused:
        yield f"    refused key {refused}"
    journal = report.journal
    if journal.journal or journal.trouble:
        waiting = f", {journal.undelivered} not delivered" if journal.undelivered else ", all delivered"
        yield f"    journal: {journal.records} records{waiting}"
    if journal.trouble:
        yield f"    journal: {journal.trouble}"


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
