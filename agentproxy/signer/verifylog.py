"""Checks an audit log from its files alone, and names the first damaged record and what kind of damage it is.

A chain proves that nothing before its end was changed unless all that follows was rewritten too. Whoever keeps a head
(relays do) proves with it that nothing up to there was; the very last record has no successor, so only a head or a
checkpoint protects it.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import field, replace
from multiprocessing import get_context
from pathlib import Path

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.values import frozen
from agentproxy.signer.checkpointcheck import Proof, check_coverage, last_head, read_proof
from agentproxy.signer.diagnosis import Damage, DamageKind, diagnose
from agentproxy.signer.grammar import is_canonical
from agentproxy.signer.journalcheck import is_of_journal, journal_notes
from agentproxy.signer.logkey import LogPublicKey
from agentproxy.signer.record import AuditRecord, hash_of_line
from agentproxy.signer.savedheads import check_heads, notes_on_heads
from agentproxy.signer.segment import (
    TORN_NAME,
    ChainEnd,
    DamagedError,
    Segment,
    follow_chain,
    holding,
    lines_of,
    list_segments,
    mapped_file,
    place_of,
    whole_length,
)

__all__ = ["Damage", "DamageKind", "Report", "verify"]

_CHUNK = 4 << 20  # bytes that one process checks at a time


@frozen
class Report:
    """What a verification found."""

    segments: int
    records: int  # that are proven to be in order, up to the damage; all of them when there is none
    first: int  # sequence of the first record; above 1 when older segments were archived
    head: Head | None  # the last proven record
    damage: Damage | None = None
    notes: tuple[str, ...] = ()  # worth a look, and no damage
    checkpoints: int = 0  # that the given public keys signed
    covered: int = 0  # sequence of the last record under one of them


@frozen
class _Chunk:
    path: Path
    node: str
    start: int
    end: int
    wanted: frozenset[int]  # sequences whose hashes are asked for


@frozen
class _Checked:
    """What holds within a chunk; None as `end` says that something does not."""

    start: ChainEnd
    end: ChainEnd | None
    hashes: dict[int, bytes] = field(default_factory=dict)
    recovered: tuple[bytes, ...] = ()  # lines of `recovered` records
    reported: tuple[bytes, ...] = ()  # lines of what relays reported of their own journals


def verify(
    directory: Path,
    *,
    heads: Sequence[Head] = (),
    keys: Sequence[LogPublicKey] = (),
    archived: bool = False,
    processes: int | None = None,
) -> Report:
    """Check every record of the log in `directory`.

    Args:
        directory: holds the segments of one node.
        heads: places that must be in the log exactly so, from wherever they were kept.
        keys: of the log, from outside: then every record up to the last checkpoint is proven to be the signer's.
        archived: accept that the oldest segments are not there.
        processes: how many to use; the usable processors unless given. A log of few megabytes is checked in this one.

    Raises:
        ConfigError: there is no log to check, or it cannot be read; or nothing of it can be compared with `heads`.
    """
    try:
        segments = list_segments(directory)
        if not segments:
            raise ConfigError(f"{directory}: no audit log here", "segments are named NODE-000000000001.jsonl")
        # Before the segments are listed for good: a running signer may go on to a new one meanwhile.
        node = segments[0].node
        proof = read_proof(directory, node, keys) if keys else None
        # Without a key from outside it is no proof, but a log that does not hold what its own checkpoint names was cut,
        # and may have gone on since.
        named = None if keys else last_head(directory, node)
        segments = list_segments(directory)
        known = [*heads, *(proof.heads if proof else ()), *((named,) if named else ())]
        report = _verify(segments, known, archived=archived, processes=processes)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}", "auditors need to read it") from error
    if report.damage is None:
        report = replace(report, notes=(*report.notes, *notes_on_heads(heads, report.first)))
    return report if proof is None else _with_proof(report, proof, segments)


def _with_proof(report: Report, proof: Proof, segments: list[Segment]) -> Report:
    notes = list(report.notes)
    if report.head is not None and report.head.sequence > proof.covered:
        notes.append(f"records from {proof.covered + 1} on are under no checkpoint yet")
    if proof.torn:
        notes.append("the last checkpoint is cut: the signer was stopped while it wrote, or is writing now")
    damage = report.damage or proof.damage or check_coverage(segments, proof)
    if damage is not None and report.damage is None and report.head is not None:
        start = ChainEnd(report.first - 1)
        end = _end_before(damage, segments, start, ChainEnd(report.head.sequence, report.head.hash))
        report = replace(report, records=end.sequence - start.sequence, head=_head(segments, end))
    return replace(
        report,
        damage=damage,
        notes=tuple(notes),
        checkpoints=len(proof.heads),
        covered=proof.covered,
    )


def _verify(segments: list[Segment], heads: Sequence[Head], *, archived: bool, processes: int | None) -> Report:
    start = _start_of(segments[0]) if archived else ChainEnd()
    wanted = frozenset(head.sequence for head in heads)
    chunks = [_chunks(segment, wanted, sealed=segment is not segments[-1]) for segment in segments]
    end, hashes, recovered, reported = start, dict[int, bytes](), list[bytes](), list[bytes]()
    damage: Damage | None = None
    walked = segments
    with _results([chunk for group in chunks for chunk in group], processes) as results:
        for index, segment in enumerate(segments):
            checked = [next(results) for _ in chunks[index]]
            damage = _foreign(segments[0], segment)
            if damage is None and not _fits(segment, end, checked):
                damage = diagnose(segments, index, end)
            if damage is not None:
                walked = segments[: index + 1]  # by their names later ones may hold what stands here
                break
            for part in checked:
                end = part.end if part.end is not None else end
                hashes |= part.hashes
                recovered += part.recovered
                reported += part.reported
    damage = damage or _check_tails(segments, recovered) or check_heads(segments, heads, start, end, hashes)
    if damage is not None:
        end = _end_before(damage, walked, start, end)
    notes = journal_notes(reported, from_the_first=start.sequence == 0)
    records = end.sequence - start.sequence
    return Report(len(segments), records, start.sequence + 1, _head(segments, end), damage, notes)


def _head(segments: list[Segment], end: ChainEnd) -> Head | None:
    return Head(segments[0].node, end.sequence, end.hash) if end.sequence else None


def _end_before(damage: Damage, segments: list[Segment], start: ChainEnd, end: ChainEnd) -> ChainEnd:
    """Where the chain stands before the damage; `end` is where the last segment without a broken link ends."""
    last = damage.sequence - 1
    if last == end.sequence:
        return end
    if last <= start.sequence:
        return start
    segment = holding(segments, last)
    with mapped_file(segment.path) as data:
        lines = [*itertools.islice(lines_of(data, 0, whole_length(data)), last - segment.first + 1)]
    try:
        before = ChainEnd(segment.first - 1, place_of(lines[0])[1])
        return follow_chain(lines, before) if lines else end
    except (ValueError, DamagedError):
        return end


def _start_of(segment: Segment) -> ChainEnd:
    """What the oldest segment there says it continues."""
    with mapped_file(segment.path) as data:
        line = next(lines_of(data, 0, whole_length(data)), b"")
    try:
        return ChainEnd(segment.first - 1, place_of(line)[1])
    except ValueError:
        return ChainEnd(segment.first - 1)  # the walk will name the damage


def _foreign(first: Segment, segment: Segment) -> Damage | None:
    if segment.node == first.node:
        return None
    explanation = f"a segment of node {segment.node} among those of {first.node}"
    return Damage(DamageKind.EDITED, str(segment.path), 0, segment.first, explanation)


def _chunks(segment: Segment, wanted: frozenset[int], *, sealed: bool) -> list[_Chunk]:
    """Cut a segment at starts of lines into parts that processes can check on their own."""
    with mapped_file(segment.path, sealed=sealed) as data:
        size, cuts = whole_length(data), [0]
        while size - cuts[-1] > _CHUNK:
            cuts.append(data.find(b"\n", cuts[-1] + _CHUNK) + 1)
        if len(data) > cuts[-1]:
            cuts.append(len(data))  # with a torn end, so that the last chunk does not hold
    return [_Chunk(segment.path, segment.node, *ends, wanted) for ends in itertools.pairwise(cuts)]


@contextlib.contextmanager
def _results(chunks: list[_Chunk], processes: int | None) -> Iterator[Iterator[_Checked]]:
    """Check all chunks, in order, in as many processes as it is worth."""
    workers = processes or len(os.sched_getaffinity(0))
    if workers == 1 or sum(chunk.end - chunk.start for chunk in chunks) < 3 * _CHUNK:
        yield map(_check, chunks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield pool.map(_check, chunks)
        pool.shutdown(cancel_futures=True)


def _check(chunk: _Chunk) -> _Checked:
    """Check the records of one chunk among themselves."""
    with mapped_file(chunk.path) as data:
        if data[chunk.end - 1 : chunk.end] != b"\n":
            return _NOTHING
        lines = [*lines_of(data, chunk.start, chunk.end)]
    try:
        sequence, prev = place_of(lines[0])
        end = follow_chain(lines, ChainEnd(sequence - 1, prev))
    except (ValueError, DamagedError):
        return _NOTHING
    node = b',"node":"%s","request":' % chunk.node.encode()
    if not all(is_canonical(line) and line.find(node, 0, 256) > 0 for line in lines):
        return _NOTHING
    hashes = {
        number: hash_of_line(lines[number - sequence]) for number in chunk.wanted if sequence <= number <= end.sequence
    }
    recovered = tuple(line for line in lines if b',"operation":"recovered",' in line)
    reported = tuple(filter(is_of_journal, lines))
    try:
        for line in (*recovered, *reported):
            AuditRecord.parse(line)  # the form alone lets through what no signer writes, and these are read later
    except RemoteProtocolError:
        return _NOTHING
    return _Checked(ChainEnd(sequence - 1, prev), end, hashes, recovered, reported)


_NOTHING = _Checked(ChainEnd(), None)


def _fits(segment: Segment, end: ChainEnd, checked: list[_Checked]) -> bool:
    """Whether a segment's chunks hold, each continuing the one before, the first continuing `end`."""
    if segment.first != end.sequence + 1:
        return False
    for part in checked:
        if part.end is None or part.start != end:
            return False
        end = part.end
    return True


def _check_tails(segments: list[Segment], recovered: list[bytes]) -> Damage | None:
    """Each saved tail must be what its `recovered` record says, as long as it is kept."""
    for line in recovered:
        record = AuditRecord.parse(line)
        name, sha256 = record.entry.details.get("file", ""), record.entry.details.get("sha256", "")
        # Claims can hold whatever marks such a line, and a record may name whatever its writer wants to be looked at.
        if record.entry.operation != "recovered" or TORN_NAME.fullmatch(name) is None:
            continue
        path = segments[0].path.with_name(name)
        if path.exists() and _sha256(path) != sha256:
            explanation = "the saved tail is not what the record of its recovery says"
            return Damage(DamageKind.EDITED, str(path), 0, record.sequence, explanation)
    return None


def _sha256(path: Path) -> str:
    with mapped_file(path, sealed=True) as data:
        return hashlib.sha256(data).hexdigest()
