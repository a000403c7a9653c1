"""Moments as text, in messages, records and files: RFC 3339 in UTC with microseconds, and nothing else."""

import re
from datetime import UTC, datetime

from agentproxy.protocol.errors import RemoteProtocolError

__all__ = ["format_time", "parse_time"]

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z", re.ASCII)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds, such as 2026-11-22T10:00:00.000000Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def parse_time(untrusted: str) -> datetime:
    """Read exactly what `format_time` writes.

    Raises:
        RemoteProtocolError: another form, or no such day.
    """
    if _TIME.fullmatch(untrusted) is None:
        raise RemoteProtocolError("a time has the form 2026-11-22T10:00:00.000000Z")
    try:
        return datetime.fromisoformat(untrusted)  # twenty times as fast as strptime, and the form is checked above
    except ValueError as error:
        raise RemoteProtocolError(f"no such time: {error}") from error
