"""What an audit log tells about the journals of relays that signed by themselves: gaps, forgeries, and forbidden ones.

A relay's journal is a chain of its own, and each of its records stands in the log with its place and hash there. That
a journal does not fit says nothing against the log: it is a note about the runner.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agentproxy.signer.record import AuditRecord

__all__ = ["CHANNEL", "is_of_journal", "journal_notes"]

# In every such record's line, and mostly in no other: a job's fields among the claims can be named so, too.
CHANNEL = b',"channel":"fallback",'


_SEQUENCE = re.compile(r"[1-9][0-9]{0,18}")


@dataclass(slots=True)
class _Journal:
    hashes: dict[int, str] = field(default_factory=dict)  # of its records, by sequence
    prevs: dict[int, str] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    forbidden: int = 0  # records with a reason: the oracle said that they should not exist


def is_of_journal(line: bytes) -> bool:
    """Whether a record may be a relay's report; its parsed form tells."""
    return CHANNEL in line


def journal_notes(lines: Iterable[bytes], *, from_the_first: bool) -> tuple[str, ...]:
    """What somebody should look at, one text for each thing.

    Args:
        lines: records for which `is_of_journal` holds.
        from_the_first: the log is there from its first record on, so a journal must be, too.
    """
    journals: dict[str, dict[str, _Journal]] = {}
    for line in lines:
        _take(journals, line)
    return tuple(note for runner, ours in sorted(journals.items()) for note in _notes(runner, ours, from_the_first))


def _take(journals: dict[str, dict[str, _Journal]], line: bytes) -> None:
    entry = AuditRecord.parse(line).entry
    if entry.asserted.channel != "fallback":
        return
    details = entry.details
    journal = journals.setdefault(entry.asserted.runner or "-", {}).setdefault(details.get("journal", "-"), _Journal())
    if _SEQUENCE.fullmatch(details.get("sequence", "")) is None:
        journal.troubles.append("a record without a number was reported")
        return
    sequence = int(details["sequence"])
    known = journal.hashes.setdefault(sequence, details.get("hash", ""))
    if known != details.get("hash", ""):
        journal.troubles.append(f"two different records {sequence} were reported: it was rewritten")
        return
    journal.forbidden += bool(entry.reason) and sequence not in journal.prevs
    journal.prevs[sequence] = details.get("prev", "")


def _notes(runner: str, journals: dict[str, _Journal], from_the_first: bool) -> Iterator[str]:  # noqa: FBT001
    if len(journals) > 1:
        yield f"runner {runner} reported from {len(journals)} journals: was the host made anew, or a journal removed?"
    for name, journal in journals.items():
        where = f"journal {name} of runner {runner}: "
        for trouble in dict.fromkeys([*journal.troubles, *_of_chain(journal, from_the_first)]):
            yield where + trouble
        if journal.forbidden:
            yield f"{where}{journal.forbidden} records should not exist: audit query --channel fallback has the reasons"


def _of_chain(journal: _Journal, from_the_first: bool) -> Iterator[str]:  # noqa: FBT001
    sequences = sorted(journal.prevs)
    if not sequences:
        return
    expected = 1 if from_the_first else sequences[0]
    for sequence in sequences:
        if sequence > expected:
            yield f"records {expected} to {sequence - 1} are not here: another oracle has them, or nobody"
        before = journal.hashes.get(sequence - 1)
        if before is not None and journal.prevs[sequence] != before:
            yield f"record {sequence} does not continue the one before it: it was rewritten"
        expected = sequence + 1
