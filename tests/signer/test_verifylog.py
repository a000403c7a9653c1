"""Verification names the first damaged record and the kind of damage."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Asserted, Claims, Head
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.log import AuditLog, LogLimits
from agentproxy.signer.record import Entry, hash_of_line
from agentproxy.signer.verifylog import DamageKind, verify
from tests.signer.logs import LIMITS, NODE, write_log

SMALL = LogLimits(reserve_bytes=0, rotate_bytes=2000)  # three records a segment
Lines = list[bytes]


def _edit(lines: Lines) -> Lines:
    return [*lines[:4], lines[4].replace(b'"builder"', b'"burglar"'), *lines[5:]]


def _edit_sequence(lines: Lines) -> Lines:
    return [*lines[:4], lines[4].replace(b'"sequence":5', b'"sequence":9'), *lines[5:]]


def _edit_prev(lines: Lines) -> Lines:
    return [*lines[:4], lines[4][:-70] + b"0" * 67 + lines[4][-3:], *lines[5:]]


def _other_form(lines: Lines) -> Lines:
    return [*lines[:9], lines[9].replace(b'"sequence"', b' "sequence"')]


DAMAGES: list[tuple[Callable[[Lines], Lines], DamageKind, int]] = [
    (_edit, DamageKind.EDITED, 5),
    (_edit_sequence, DamageKind.EDITED, 5),
    (_edit_prev, DamageKind.EDITED, 5),
    (_other_form, DamageKind.EDITED, 10),
    (lambda lines: [*lines[:4], b"", *lines[5:]], DamageKind.EDITED, 5),
    (lambda lines: [*lines[:4], b"not a record", *lines[4:]], DamageKind.EDITED, 5),
    (lambda lines: [*lines[:4], lines[4].replace(b"builder", b"buil\x00er"), *lines[5:]], DamageKind.TORN, 5),
    (lambda lines: lines[1:], DamageKind.DELETED, 1),
    (lambda lines: lines[:4] + lines[5:], DamageKind.DELETED, 5),
    (lambda lines: lines[:4] + lines[7:], DamageKind.DELETED, 5),
    (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], DamageKind.REORDERED, 5),
    (lambda lines: [*lines[:5], lines[4], *lines[5:]], DamageKind.REORDERED, 6),
    (lambda lines: lines[::-1], DamageKind.REORDERED, 1),
]


@pytest.mark.parametrize(("damage", "kind", "sequence"), DAMAGES)
def test_damage_within_a_segment_is_named(
    tmp_path: Path, damage: Callable[[Lines], Lines], kind: DamageKind, sequence: int
) -> None:
    write_log(tmp_path, 10)
    path = next(tmp_path.iterdir())
    path.write_bytes(b"".join(line + b"\n" for line in damage(path.read_bytes().splitlines())))
    report = verify(tmp_path)
    found = report.damage
    assert found is not None
    assert (found.kind, found.sequence) == (kind, sequence), str(found)
    assert found.path == str(path)
    assert report.records == sequence - 1
    assert (report.head is None) == (sequence == 1)


def test_a_log_without_damage_says_where_it_ends(tmp_path: Path) -> None:
    head = write_log(tmp_path, 10)
    report = verify(tmp_path, heads=[head])
    assert (report.damage, report.records, report.first, report.head) == (None, 10, 1, head)


def test_a_deleted_segment_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, 9, SMALL)
    sorted(tmp_path.iterdir())[1].unlink()
    found = verify(tmp_path).damage
    assert found is not None
    assert (found.kind, found.sequence) == (DamageKind.DELETED, 4), str(found)


def test_records_swapped_between_segments_are_reordered(tmp_path: Path) -> None:
    write_log(tmp_path, 9, SMALL)
    first, second, _ = sorted(tmp_path.iterdir())
    lines, others = first.read_bytes().splitlines(), second.read_bytes().splitlines()
    lines[2], others[0] = others[0], lines[2]
    for path, content in ((first, lines), (second, others)):
        path.chmod(0o640)
        path.write_bytes(b"".join(line + b"\n" for line in content))
    found = verify(tmp_path).damage
    assert found is not None
    assert (found.kind, found.sequence) == (DamageKind.REORDERED, 3), str(found)


def test_a_segment_that_is_cut_before_others_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, 9, SMALL)
    path = sorted(tmp_path.iterdir())[1]
    path.chmod(0o640)
    path.write_bytes(path.read_bytes()[:-10])
    found = verify(tmp_path).damage
    assert found is not None
    assert (found.kind, found.sequence) == (DamageKind.CUT_OFF, 6), str(found)


def test_archived_segments_are_missed_unless_that_is_said(tmp_path: Path) -> None:
    head = write_log(tmp_path, 9, SMALL)
    sorted(tmp_path.iterdir())[0].unlink()
    found = verify(tmp_path).damage
    assert found is not None
    assert (found.kind, found.sequence) == (DamageKind.DELETED, 1), str(found)
    report = verify(tmp_path, archived=True)
    assert (report.damage, report.first, report.records, report.head) == (None, 4, 6, head)


def test_what_is_left_after_archiving_must_continue_what_a_saved_head_names(tmp_path: Path) -> None:
    """Else whoever can write the directory makes up a log from there on."""
    last = write_log(tmp_path, 9, SMALL)
    first, second, _ = sorted(tmp_path.iterdir())
    archived = first.read_bytes().splitlines()
    heads = [Head(NODE, number, hash_of_line(line)) for number, line in enumerate(archived, 1)]
    first.unlink()
    report = verify(tmp_path, heads=[heads[2]], archived=True)
    assert (report.damage, report.notes) == (None, ())
    found = verify(tmp_path, heads=[replace(heads[2], hash=bytes(32)), last], archived=True).damage
    assert found is not None
    assert (found.kind, found.sequence, found.path) == (DamageKind.EDITED, 4, str(second)), str(found)
    report = verify(tmp_path, heads=[heads[1], last], archived=True)
    assert report.damage is None
    assert report.notes == ("a saved head names record 2, which was archived: it is not compared",)
    with pytest.raises(ConfigError, match="begins with record 4, and no saved head names one from 3 on"):
        verify(tmp_path, heads=heads[:2], archived=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"claims":null', b'"claims":{"uid":' + b"9" * 5000 + b"}"),
        (b'"runner":"builder"', b'"runner":"\\ud83d"'),
        (b'"node":"node-1"', b'"node":"\\u00e9"'),
        (b'"channel":"relay","distribution":null', b'"channel":"fallback","distribution":"\\u202e"'),
        (b'"operation":"sign","key":null', b'"operation":"recovered","key":"-"'),
    ],
)
@pytest.mark.parametrize("is_damaged_later", [False, True])
def test_what_no_signer_writes_is_damage_also_with_consistent_hashes(
    tmp_path: Path, old: bytes, new: bytes, *, is_damaged_later: bool
) -> None:
    write_log(tmp_path, 5)
    path, prev, forged = next(tmp_path.iterdir()), bytes(32).hex(), []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        changed = line.replace(old, new, 1) if number == 2 else line
        assert (changed != line) == (number == 2)
        forged.append(changed[:-66] + prev.encode() + b'"}')
        prev = hash_of_line(forged[-1]).hex()
    forged[-1] += b" " * is_damaged_later
    path.write_bytes(b"".join(line + b"\n" for line in forged))
    found = verify(tmp_path).damage
    assert found is not None
    assert (found.kind, found.sequence) == (DamageKind.EDITED, 2), str(found)


@pytest.mark.parametrize("lost", [1, 2, 9])
def test_a_cut_end_shows_against_a_saved_head(tmp_path: Path, lost: int) -> None:
    head = write_log(tmp_path, 10)
    path = next(tmp_path.iterdir())
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-lost]))
    assert verify(tmp_path).damage is None  # what a chain alone cannot show
    found = verify(tmp_path, heads=[head]).damage
    assert found is not None
    assert (found.kind, found.sequence) == (DamageKind.CUT_OFF, 11 - lost)


def test_a_rewritten_log_shows_against_a_saved_head(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    head = write_log(tmp_path / "a", 10)
    write_log(tmp_path / "b", 12)
    found = verify(tmp_path / "b", heads=[head]).damage
    assert found is not None
    assert (found.kind, found.sequence) == (DamageKind.EDITED, 10)
    other = verify(tmp_path / "a", heads=[replace(head, node="node-2")]).damage
    assert other is not None
    assert "node-2" in str(other)


@pytest.mark.parametrize("content", [b"", b"of no log\n", None])
def test_a_file_behind_the_damage_says_nothing_about_what_is_before_it(tmp_path: Path, content: bytes | None) -> None:
    write_log(tmp_path, 3)
    (path,) = tmp_path.iterdir()
    first, second, _ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second + b"not a record\n")
    forged = second.replace(b'"builder"', b'"burglar"')
    path.with_name(f"{NODE}-000000000002.jsonl").write_bytes(forged if content is None else content)
    report = verify(tmp_path)
    assert report.damage is not None
    assert (report.damage.sequence, report.records) == (3, 2)
    assert report.head == Head(NODE, 2, hash_of_line(second.rstrip(b"\n")))


@pytest.mark.parametrize("sequence", range(1, 10))
def test_records_are_counted_up_to_the_damage_and_its_segment_is_named(tmp_path: Path, sequence: int) -> None:
    head = write_log(tmp_path, 9, SMALL)
    paths = sorted(tmp_path.iterdir())
    holding = paths[(sequence - 1) // 3]
    lines = [hash_of_line(line) for path in paths for line in path.read_bytes().splitlines()]
    before = Head(NODE, sequence - 1, lines[sequence - 2]) if sequence > 1 else None
    wrong = verify(tmp_path, heads=[head, Head(NODE, sequence, bytes(32))])
    content = holding.read_bytes().splitlines()
    content[(sequence - 1) % 3] = content[(sequence - 1) % 3].replace(b'"builder"', b'"burglar"')
    holding.chmod(0o640)
    holding.write_bytes(b"".join(line + b"\n" for line in content))
    for report in (wrong, verify(tmp_path, heads=[head])):
        assert report.damage is not None
        assert (report.damage.sequence, report.damage.path) == (sequence, str(holding)), str(report.damage)
        assert (report.records, report.head) == (sequence - 1, before)


def test_a_changed_tail_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    with next(tmp_path.iterdir()).open("ab") as file:
        file.write(b"torn")
    write_log(tmp_path, 1)
    (torn,) = tmp_path.glob("*.torn-1")
    torn.write_bytes(b"tern")
    found = verify(tmp_path).damage
    assert found is not None
    assert (found.kind, found.path) == (DamageKind.EDITED, str(torn))
    torn.unlink()
    os.mkfifo(torn)
    with pytest.raises(ConfigError, match="torn-1: expected a regular file"):
        verify(tmp_path)


@pytest.mark.parametrize("mark", [("operation", "recovered"), ("channel", "fallback")])
def test_what_a_runner_claims_is_taken_for_no_other_kind_of_record(tmp_path: Path, mark: tuple[str, str]) -> None:
    claims = Claims(job={"a": "", **dict([mark]), "z": ""})
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        log.append([Entry("sign", Outcome.SIGNED, Asserted(runner="builder", claims=claims))])
    report = verify(tmp_path)
    assert (report.damage, report.notes) == (None, ())


@pytest.mark.parametrize("details", [{}, {"file": ".."}, {"file": f"{NODE}-000000000001.jsonl", "sha256": "0" * 64}])
def test_a_recovery_of_no_saved_tail_is_nothing_to_look_at(tmp_path: Path, details: dict[str, str]) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        log.append([Entry("recovered", Outcome.DONE, details=details)])
    assert verify(tmp_path).damage is None


def test_a_segment_of_another_node_does_not_belong(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    (tmp_path / "node-2-000000000002.jsonl").touch()
    report = verify(tmp_path)
    assert report.damage is not None
    assert "node-2" in str(report.damage)
    assert (report.damage.sequence, report.records) == (2, 1)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_directory_without_a_log_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        verify(tmp_path / name)


def test_several_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentproxy.signer.verifylog._CHUNK", 1000)
    head = write_log(tmp_path, 20, LogLimits(0, 5000))
    wanted = [head, Head(NODE, 1, head.hash)]
    assert verify(tmp_path, heads=[head], processes=2) == verify(tmp_path, heads=[head], processes=1)
    report = verify(tmp_path, heads=wanted, processes=2)
    assert report == verify(tmp_path, heads=wanted, processes=1)
    assert report.damage is not None
