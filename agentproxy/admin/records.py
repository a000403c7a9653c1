"""Reads the audit log for people: the last records, and those that come. Proving it whole is `verifylog`'s part."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from agentproxy.admin.visible import visible
from agentproxy.protocol.errors import ConfigError
from agentproxy.signer.record import AuditRecord
from agentproxy.signer.segment import Segment, lines_of, list_segments, mapped_file, whole_length

__all__ = ["COLUMNS", "ends", "follow", "last_lines", "summary"]

COLUMNS = ("sequence", "time (UTC)", "operation", "outcome", "key", "digest", "runner", "reason", "claimed")

_POLL_SECONDS = 0.2
_DIGEST_SHOWN = 16  # hex digits; enough to find it, and --json has all


def ends(directory: Path) -> dict[Segment, int]:
    """The segments there are, oldest first, and how many bytes of whole lines each has now.

    Raises:
        ConfigError: there is no log, or we may not read it.
    """
    try:
        found = {segment: _length(segment) for segment in list_segments(directory)}
    except OSError as error:
        raise _unreadable(directory, error) from error
    if not found:
        raise ConfigError(f"{directory}: no audit log here", "segments are named NODE-000000000001.jsonl")
    return found


def _unreadable(directory: Path, error: OSError) -> ConfigError:
    hint = "the audit log belongs to the signer's user; auditors are in its group"
    return ConfigError(f"{error.filename or directory}: {error.strerror}", hint)


def last_lines(until: dict[Segment, int], number: int) -> list[bytes]:
    """The last `number` records' lines before the given ends, oldest first, without newlines."""
    found: list[bytes] = []
    for segment, end in reversed(until.items()):
        found[:0] = _tail(segment, end, number - len(found))
        if len(found) >= number:
            break
    return found


def _tail(segment: Segment, end: int, number: int) -> list[bytes]:
    with mapped_file(segment.path) as data:
        start = end
        for _ in range(number):
            if start == 0:
                break
            start = data.rfind(b"\n", 0, start - 1) + 1
        return list(lines_of(data, start, end))


def follow(directory: Path, since: Mapping[Segment, int]) -> Iterator[bytes]:
    """The lines of records that are written after the given ends, for ever.

    Raises:
        ConfigError: the log went away, or we may not read it any more.
    """
    seen = dict(since)
    while True:
        try:
            segments = list_segments(directory)
        except OSError as error:
            raise _unreadable(directory, error) from error
        for segment in segments:
            yield from _new_lines(segment, seen)
        time.sleep(_POLL_SECONDS)


def _new_lines(segment: Segment, seen: dict[Segment, int]) -> list[bytes]:
    """The lines behind what was seen, which they are then, too."""
    start = seen.get(segment, 0)
    try:
        with mapped_file(segment.path) as data:
            seen[segment] = end = max(start, whole_length(data))
            return list(lines_of(data, start, end))
    except FileNotFoundError:  # archived since it was listed
        return []
    except OSError as error:
        raise _unreadable(segment.path, error) from error


def _length(segment: Segment) -> int:
    with mapped_file(segment.path) as data:
        return whole_length(data)


def summary(record: AuditRecord) -> tuple[str, ...]:
    """A record in the columns that a person looks for first; the last one is only claimed.

    Whoever forged a log may have put any text into it, and nobody has verified it yet: each is shown on one line.
    Where the oracle objects to nothing, the reason of a fallback's record is what the build server's operator gave.
    """
    entry, asserted = record.entry, record.entry.asserted
    digest = "" if entry.digest is None else f"{entry.digest.algorithm.name.lower()} {entry.digest.value.hex()}"
    claims = asserted.claims
    claimed = [] if claims is None else [claims.package or claims.file or "", claims.user or ""]
    shown = (
        str(record.sequence),
        record.time.strftime("%Y-%m-%d %H:%M:%S"),
        entry.operation,
        entry.outcome.value,
        entry.key or "",
        digest[: digest.find(" ") + 1 + _DIGEST_SHOWN],
        asserted.runner or "",
        entry.reason or entry.details.get("reason", ""),
        " ".join(filter(None, claimed)),
    )
    return tuple(map(visible, shown))
