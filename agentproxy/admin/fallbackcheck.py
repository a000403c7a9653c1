"""The look of `blind-oracle check` at what build servers signed by themselves."""

import mmap
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from agentproxy.admin.health import Finding, Level, Subject
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.signer.journalcheck import CHANNEL
from agentproxy.signer.record import AuditRecord
from agentproxy.signer.segment import list_segments, mapped_file, whole_length

__all__ = ["findings_in", "look_at_fallback"]

RECENT_DAYS = 30  # somebody has looked at what is older
_MOST_NAMED = 10


def look_at_fallback(subject: Subject) -> Iterator[Finding]:
    """As `findings_in`, for the oracle's own log."""
    if subject.signer is not None:
        yield from findings_in(subject.signer.audit.directory, subject.now)


def findings_in(directory: Path, now: datetime) -> Iterator[Finding]:
    """Name the records that should not exist, and how many there are that may.

    Raises:
        ConfigError: the log cannot be read.
    """
    since, good, bad = now - timedelta(days=RECENT_DAYS), 0, list[AuditRecord]()
    for record in _records(directory):
        if record.time >= since and record.entry.reason:
            bad.append(record)
        elif record.time >= since and record.entry.operation == "fallback_sign":
            good += 1
    hint = "blind-oracle audit query --channel fallback shows them; is that build server still yours?"
    for record in bad[:_MOST_NAMED]:
        message = f"record {record.sequence} of {record.entry.asserted.runner}: {record.entry.reason}"
        yield Finding("fallback", Level.WARNING, message, hint)
    if len(bad) > _MOST_NAMED:
        yield Finding("fallback", Level.WARNING, f"and {len(bad) - _MOST_NAMED} records more", hint)
    if not bad:
        message = f"signatures that build servers made by themselves within {RECENT_DAYS} days: {good}"
        yield Finding("fallback", Level.OK, message)


def _records(directory: Path) -> Iterator[AuditRecord]:
    try:
        for segment in list_segments(directory):
            with mapped_file(segment.path) as data:
                yield from _reports(data)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from error


def _reports(data: mmap.mmap | bytes) -> Iterator[AuditRecord]:
    """The relays' records in one segment: found by their channel's spelling, so a large log takes no time."""
    end = whole_length(data)
    place = data.find(CHANNEL, 0, end)
    while place >= 0:
        stop = data.find(b"\n", place)
        try:
            yield AuditRecord.parse(data[data.rfind(b"\n", 0, place) + 1 : stop])
        except RemoteProtocolError:
            return  # damage is the audit log's own look's business
        place = data.find(CHANNEL, stop, end)
