"""What kind of damage it is, once a segment is known to be damaged. Slow and thorough; used by `verifylog`."""

import enum

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen
from agentproxy.signer.grammar import is_canonical
from agentproxy.signer.record import AuditRecord, hash_of_line
from agentproxy.signer.segment import ChainEnd, Segment, lines_of, mapped_file, place_of, whole_length

__all__ = ["Damage", "DamageKind", "diagnose"]


class DamageKind(enum.StrEnum):
    """What happened to a log."""

    EDITED = "edited"
    DELETED = "deleted"
    REORDERED = "reordered"
    CUT_OFF = "cut off"
    TORN = "torn"
    FORGED = "forged"  # a checkpoint that the log's key did not sign
    UNPROVEN = "unproven"  # records that a checkpoint must cover, and none does


@frozen
class Damage:
    """The first place where a log is not what a signer wrote."""

    kind: DamageKind
    path: str
    line: int  # from 1; 0 when it is the whole file
    sequence: int  # of the first damaged or missing record
    explanation: str

    def __str__(self) -> str:
        where = f"{self.path}, line {self.line}" if self.line else self.path
        return f"{where}: record {self.sequence}: {self.kind.value}: {self.explanation}"


def diagnose(segments: list[Segment], index: int, start: ChainEnd) -> Damage | None:
    """Walk one segment from `start`, the end of the segment before, to its first damage.

    Args:
        segments: all of the log: a record that is missing here may stand in a later one.
        index: which of them to walk.
        start: where the chain stood before it.
    """
    segment = segments[index]
    with mapped_file(segment.path, sealed=index + 1 < len(segments)) as data:
        size = whole_length(data)
        if segment.first != start.sequence + 1:
            return _gap(segment, start.sequence + 1)
        lines = [*lines_of(data, 0, size)]
        end = start
        for at, line in enumerate(lines):
            damage = _damage_of(segments, index, lines, at, end)
            if damage is not None:
                return damage
            end = ChainEnd(end.sequence + 1, hash_of_line(line))
        if size < len(data):
            return _torn(segments, index, len(lines) + 1, end.sequence + 1, len(data) - size)
    return None


def _gap(segment: Segment, expected: int) -> Damage:
    path = str(segment.path)
    if segment.first > expected:
        missing = f"records {expected} to {segment.first - 1} are not there"
        return Damage(DamageKind.DELETED, path, 0, expected, missing)
    return Damage(DamageKind.EDITED, path, 0, segment.first, f"by its name it repeats records from {segment.first} on")


def _torn(segments: list[Segment], index: int, line: int, sequence: int, size: int) -> Damage:
    path = str(segments[index].path)
    if index + 1 < len(segments):
        return Damage(DamageKind.CUT_OFF, path, line, sequence, "the segment ends within a record, and others follow")
    explanation = f"{size} bytes behind the last whole record: the signer was stopped while it wrote, or is writing now"
    return Damage(DamageKind.TORN, path, line, sequence, explanation)


def _damage_of(segments: list[Segment], index: int, lines: list[bytes], at: int, end: ChainEnd) -> Damage | None:
    """What is wrong with line `at`, before which the chain stood at `end`."""
    path, line, expected = str(segments[index].path), lines[at], end.sequence + 1
    try:
        found, prev = place_of(line)
    except ValueError as error:
        return Damage(DamageKind.EDITED, path, at + 1, expected, str(error))
    if found != expected:
        kind, explanation = _misplaced(segments[index:], lines[at:], expected, found, fits=prev == end.hash)
        return Damage(kind, path, at + 1, expected, explanation)
    if prev != end.hash:
        return _broken_link(segments, index, lines, at, expected)
    explanation = _wrong_content(line, segments[index].node)
    return Damage(DamageKind.EDITED, path, at + 1, expected, explanation) if explanation else None


def _wrong_content(line: bytes, node: str) -> str:
    """Why no signer of this node wrote a line that is in its place; empty when one may have."""
    if not is_canonical(line):
        return "the record is not in its canonical form"
    try:
        record = AuditRecord.parse(line)
    except RemoteProtocolError as error:
        return f"no signer writes such a record: {error}"
    return "" if record.node == node else "the record is of another node"


def _misplaced(
    segments: list[Segment], lines: list[bytes], expected: int, found: int, *, fits: bool
) -> tuple[DamageKind, str]:
    """Why record `found` stands at the start of `lines`; `fits` says that it names the right record before it."""
    if fits:
        return DamageKind.EDITED, f"its sequence says {found}"
    if found < expected or _stands_later(segments, lines, expected):
        return DamageKind.REORDERED, f"record {found} stands in its place"
    return DamageKind.DELETED, f"record {found} follows record {expected - 1}"


def _broken_link(segments: list[Segment], index: int, lines: list[bytes], at: int, sequence: int) -> Damage:
    """Two neighbours do not fit together: which of them was edited, the next record tells."""
    following = lines[at + 1] if at + 1 < len(lines) else b""
    try:
        intact = place_of(following) == (sequence + 1, hash_of_line(lines[at]))
    except ValueError:
        intact = not following
    if intact:
        explanation = f"record {sequence} holds the hash of another content"
        holding = segments[index if at else max(0, index - 1)]
        return Damage(DamageKind.EDITED, str(holding.path), sequence - holding.first, sequence - 1, explanation)
    return Damage(
        DamageKind.EDITED,
        str(segments[index].path),
        at + 1,
        sequence,
        "neither the record before nor the one after fits it",
    )


def _stands_later(segments: list[Segment], lines: list[bytes], sequence: int) -> bool:
    start = b'{"sequence":%d,"time":"' % sequence
    if any(line.startswith(start) for line in lines):
        return True
    for segment in segments[1:]:
        with mapped_file(segment.path) as data:
            if data[: len(start)] == start or data.find(b"\n" + start) >= 0:
                return True
    return False
