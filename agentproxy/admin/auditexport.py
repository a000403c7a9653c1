"""Ships the audit log: the records' own bytes from a place on, and a token that says where to go on.

A token is SEQUENCE:HASH of the last record that was shipped. A log in which that record has another hash was rewritten,
and nothing more of it is shipped.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.signer.grammar import is_canonical
from agentproxy.signer.record import FIRST_PREV, hash_of_line
from agentproxy.signer.segment import (
    ChainEnd,
    DamagedError,
    follow_chain,
    lines_of,
    list_segments,
    mapped_file,
    place_of,
    whole_length,
)

__all__ = ["export", "format_token", "parse_token"]

_TOKEN = re.compile(r"(0|[1-9][0-9]{0,17})(?::([0-9a-f]{64}))?")


def parse_token(text: str) -> tuple[int, bytes | None]:
    """A sequence, and the record's hash when it is there.

    Raises:
        ConfigError: it is something else.
    """
    match = _TOKEN.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"expected SEQUENCE or SEQUENCE:HASH, got {text.strip()[:80]!r}", "0 is before all records")
    return int(match[1]), None if match[2] is None else bytes.fromhex(match[2])


def format_token(end: ChainEnd) -> str:
    """What the next export goes on from."""
    return f"{end.sequence}:{end.hash.hex()}"


def export(directory: Path, after: int, hash_: bytes | None, limit: int | None) -> Iterator[tuple[bytes, ChainEnd]]:
    """Records behind `after`, at most `limit`: each line without its newline, and the place that it ends.

    Each is a record and continues the one before, or it does not come out: so it has nothing that steers a terminal, or
    that its reader takes for another record.

    Raises:
        ConfigError: the log is not there, ends before `after`, begins behind it, or does not continue it.
    """
    end = ChainEnd(after, hash_ or FIRST_PREV) if after == 0 or hash_ is not None else None
    for number, line, path in _lines(directory, after):
        if limit is not None and number > after + limit:
            return
        try:
            if number == after:
                _check_last(line, hash_)
                end = ChainEnd(after, hash_of_line(line))
                continue
            if end is None:  # the record before is archived: the log's own word for what it was
                end = ChainEnd(after, place_of(line)[1])
            end = follow_chain([line], end)
            _check_record(line)
        except (DamagedError, ValueError) as error:
            hint = "it was rewritten or damaged: blind-oracle audit verify says more"
            raise ConfigError(f"{path}: the log does not continue what was exported: {error}", hint) from error
        yield line, end


def _check_last(line: bytes, hash_: bytes | None) -> None:
    if hash_ is not None and hash_of_line(line) != hash_:
        raise ValueError("the last record of it is another one now")


def _check_record(line: bytes) -> None:
    if not is_canonical(line):
        raise ValueError("a record is not in its canonical form")


def _lines(directory: Path, after: int) -> Iterator[tuple[int, bytes, Path]]:
    """The lines behind record `after`, with their sequences; before them its own, when it is there."""
    try:
        segments = list_segments(directory)
        if not segments:
            raise ConfigError(f"{directory}: no audit log here", "segments are named NODE-000000000001.jsonl")
        if segments[0].first > after + 1:
            raise ConfigError(f"records {after + 1} to {segments[0].first - 1} are not there: archived?")
        start = max(index for index, segment in enumerate(segments) if segment.first <= max(after, segments[0].first))
        last = 0
        for segment in segments[start:]:
            with mapped_file(segment.path) as data:
                last = segment.first - 1
                for line in lines_of(data, 0, whole_length(data)):
                    last += 1
                    if last >= after:
                        yield last, line, segment.path
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}", "auditors need to read it") from error
    if last < after:
        raise ConfigError(f"the log ends with record {last}, before record {after}", "it was cut off, or is another")
