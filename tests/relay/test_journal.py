"""The relay's journal on a real file system, also on one that is full, torn, or changed by somebody."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.journal import MAX_RECORD, MAX_REPORT_RECORDS, JournalOperation
from agentproxy.protocol.keys import Fingerprint, Keygrip
from relay.commandline import run_command
from relay.draft import Draft
from relay.journal import Journal
from relay.journalchain import JournalDamagedError, JournalUnavailableError, follow, whole_length
from relay.journalreading import read

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def draft(number: int, claims: Claims | None = None) -> Draft:
    return Draft(
        JournalOperation.SIGN,
        f"{number:032x}",
        mode="forced",
        reason="drill",
        fingerprint=Fingerprint(bytes(20)),
        keygrip=Keygrip(bytes(20)),
        digest=Digest(HashAlgorithm.SHA256, number.to_bytes(32, "big")),
        signature_sha256=bytes(32),
        claims=claims,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fallback" / "journal.jsonl"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path, lambda: NOW)
    yield opened
    opened.close()


def again(path: Path) -> Journal:
    opened = Journal(path, lambda: NOW)
    opened.open()
    return opened


def test_records_are_a_chain_that_a_new_start_continues(path: Path, journal: Journal) -> None:
    for number in range(3):
        journal.append(draft(number))
    journal.close()
    second = again(path)
    second.append(draft(3))
    second.close()
    reading = read(path)
    assert (reading.damage, reading.end.sequence) == ("", 4)
    assert len({json.loads(line)["journal"] for line in reading.lines}) == 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_a_record_there_is_no_file_and_nothing_to_report(path: Path, journal: Journal) -> None:
    assert journal.next_report() == ()
    assert not path.exists()


def test_a_second_relay_on_the_same_journal_is_refused(path: Path, journal: Journal) -> None:
    journal.append(draft(0))
    with pytest.raises(JournalUnavailableError, match="another relay"):
        again(path)


def test_what_is_reported_and_not_marked_is_reported_again_after_a_crash(path: Path, journal: Journal) -> None:
    for number in range(MAX_REPORT_RECORDS + 3):
        journal.append(draft(number))
    first = journal.next_report()
    assert [record.sequence for record in first] == list(range(1, MAX_REPORT_RECORDS + 1))
    journal.close()  # killed before the oracle's answer was noted
    second = again(path)
    assert second.next_report() == first
    second.delivered(first)
    assert second.undelivered == 3
    second.close()
    third = again(path)
    rest = third.next_report()
    assert [record.sequence for record in rest] == list(range(MAX_REPORT_RECORDS + 1, MAX_REPORT_RECORDS + 4))
    third.delivered(rest)
    assert third.next_report() == ()
    third.close()


@pytest.mark.parametrize("torn", [b'{"type":"journal_record","jour', bytes(512), b'{"type":"jo' + bytes(64)])
def test_a_torn_end_is_put_aside_and_named(path: Path, journal: Journal, torn: bytes) -> None:
    journal.append(draft(0))
    journal.close()
    with path.open("ab") as file:
        file.write(torn)
    assert read(path).torn == len(torn)
    second = again(path)
    assert second.end.sequence == 2
    second.append(draft(1))
    second.close()
    reading = read(path)
    assert (reading.damage, reading.torn, reading.end.sequence) == ("", 0, 3)
    assert json.loads(reading.lines[1])["operation"] == "recovered"
    [aside] = path.parent.glob("*.torn-*")
    assert aside.read_bytes() == torn
    assert aside.name in json.loads(reading.lines[1])["reason"]


def test_a_kill_at_any_byte_of_a_record_loses_no_record_before_it(path: Path, journal: Journal) -> None:
    for number in range(2):
        journal.append(draft(number))
    whole = path.read_bytes()
    journal.close()
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole), 7):
        path.write_bytes(whole[:end])
        opened = again(path)
        assert opened.end.sequence == (1 if end == start else 2)  # the second is `recovered`
        opened.close()


DAMAGES = {
    "edited": lambda lines: [lines[0].replace(b"drill", b"DRILL"), *lines[1:]],
    "deleted": lambda lines: [lines[0], *lines[2:]],
    "reordered": lambda lines: [lines[1], lines[0], *lines[2:]],
    "doubled": lambda lines: [lines[0], lines[0], *lines[1:]],
    "not JSON": lambda lines: [b"x", *lines[1:]],
    "carriage return put in": lambda lines: [lines[0] + b"\r", *lines[1:]],
    "carriage return for a newline": lambda lines: [lines[0] + b"\r" + lines[1], *lines[2:]],
    "carriage returns everywhere": lambda lines: [line + b"\r" for line in lines],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_changed_journal_stops_local_signatures_and_says_where(path: Path, journal: Journal, name: str) -> None:
    for number in range(4):
        journal.append(draft(number))
    journal.close()
    path.write_bytes(b"".join(line + b"\n" for line in DAMAGES[name](path.read_bytes().splitlines())))
    opened = Journal(path)
    with pytest.raises(JournalDamagedError, match=r"record [0-9]"):
        opened.check()
    with pytest.raises(JournalUnavailableError):
        opened.append(draft(9))
    assert "record" in opened.trouble
    assert "damaged" in read(path).words


WHILE_OPEN = {
    **DAMAGES,
    "last record edited": lambda lines: [*lines[:-1], lines[-1].replace(b"drill", b"DRILL")],
    "cut": lambda lines: lines[:-1],
    "emptied": lambda lines: [],  # noqa: ARG005  as the others
    "made longer": lambda lines: [*lines, b"x"],
}


@pytest.mark.parametrize("name", WHILE_OPEN)
def test_a_journal_that_is_changed_while_it_is_open_stops_local_signatures_too(
    path: Path, journal: Journal, name: str
) -> None:
    for number in range(4):
        journal.append(draft(number))
    changed = b"".join(line + b"\n" for line in WHILE_OPEN[name](path.read_bytes().splitlines()))
    path.write_bytes(changed)  # in place, at once: within one tick of the kernel's clock
    for _ in range(2):
        with pytest.raises(JournalDamagedError, match=r"record [0-9]"):
            journal.check()
        with pytest.raises(JournalDamagedError):
            journal.append(draft(9))
        with pytest.raises(JournalDamagedError):
            journal.next_report()
    assert "record" in journal.trouble
    assert path.read_bytes() == changed


def test_bytes_behind_the_last_record_of_an_open_journal_are_no_crashs(path: Path, journal: Journal) -> None:
    journal.append(draft(0))
    with path.open("ab") as file:
        file.write(b'{"type":"jo')
    with pytest.raises(JournalDamagedError, match="11 bytes stand behind record 1"):
        journal.check()
    assert not list(path.parent.glob("*.torn-*"))


def test_a_file_with_the_same_records_in_its_place_is_gone_on_with_and_another_is_not(
    path: Path, journal: Journal, tmp_path: Path
) -> None:
    for number in range(2):
        journal.append(draft(number))
    short = path.read_bytes().splitlines(keepends=True)[0]
    for content, is_good in ((path.read_bytes(), True), (short, False)):
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").rename(path)
        if is_good:
            assert journal.append(draft(2)).sequence == 3
            assert read(path).end == journal.end
    with pytest.raises(JournalDamagedError, match="it ends with record 1, and this relay wrote record 3 last"):
        journal.check()


def test_who_touches_the_file_and_changes_nothing_stops_nothing(path: Path, journal: Journal) -> None:
    journal.append(draft(0))
    os.utime(path)
    path.with_name("a link of a backup's").hardlink_to(path)
    journal.check()
    assert journal.append(draft(1)).sequence == 2


@pytest.mark.parametrize("is_damaged", [False, True])
def test_behind_a_journal_that_is_moved_away_while_it_is_open_the_next_record_begins_another(
    path: Path, journal: Journal, is_damaged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        journal.append(draft(number))
    journal.delivered(journal.next_report()[:2])
    if is_damaged:
        path.write_bytes(path.read_bytes().replace(b"drill", b"DRILL", 1))
        with pytest.raises(JournalDamagedError):
            journal.check()
    before, name = path.read_bytes(), journal.end.journal
    aside = path.rename(path.with_name("evidence"))
    path.with_name("delivered.json").rename(path.with_name("evidence.json"))
    journal.check()
    assert f"journal={name} records=3 undelivered=1" in caplog.text
    record = journal.append(draft(3))
    assert (record.sequence, journal.undelivered, journal.trouble) == (1, 1, "")
    assert record.journal != name
    assert journal.next_report() == (record,)
    assert aside.read_bytes() == before
    journal.close()
    second = again(path)
    assert second.append(draft(4)).sequence == 2
    second.close()
    assert read(path).damage == ""


def test_an_answer_for_a_journal_that_is_no_longer_here_leaves_no_mark(path: Path, journal: Journal) -> None:
    journal.append(draft(0))
    report = journal.next_report()
    path.rename(path.with_name("evidence"))
    journal.delivered(report)
    assert (journal.undelivered, journal.next_report()) == (0, ())
    assert journal.append(draft(1)).sequence == 1
    journal.delivered(report)  # which came twice
    assert journal.undelivered == 1
    assert not path.with_name("delivered.json").exists()


def test_a_mark_without_its_journal_begins_no_other_and_says_what_to_do(path: Path, journal: Journal) -> None:
    journal.append(draft(0))
    journal.delivered(journal.next_report())
    aside = path.rename(path.with_name("evidence"))
    for opened in (journal, Journal(path)):
        with pytest.raises(
            JournalDamagedError, match=r"an oracle has record 1 of it: move both away, or put both back"
        ):
            opened.check()
        assert not path.exists()
    with pytest.raises(ConfigError, match=r"no journal, though an oracle has record 1 of one"):
        read(path)
    aside.rename(path)
    assert journal.append(draft(1)).sequence == 2
    path.rename(aside)
    path.with_name("delivered.json").rename(path.with_name("evidence.json"))
    assert journal.append(draft(2)).sequence == 1
    path.with_name("evidence.json").rename(path.with_name("delivered.json"))
    journal.close()
    path.write_bytes(b"")
    with pytest.raises(JournalDamagedError, match=r"an oracle has record 1 of journal [0-9a-f]{32}, not of this one"):
        again(path)


@pytest.mark.parametrize("mark", [b"", b"{}", b"[" * 2000])
def test_a_mark_that_cannot_be_read_is_damage(path: Path, journal: Journal, mark: bytes) -> None:
    journal.append(draft(0))
    journal.close()
    path.with_name("delivered.json").write_bytes(mark)
    with pytest.raises(JournalDamagedError, match=r"delivered\.json cannot be read"):
        again(path)


def test_a_cut_end_that_an_oracle_has_is_noticed_and_one_that_it_has_not_is_not(path: Path, journal: Journal) -> None:
    """docs/SECURITY.md: before delivery nobody else knows of a record."""
    for number in range(4):
        journal.append(draft(number))
    journal.delivered(journal.next_report()[:3])
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    unnoticed = again(path)
    assert unnoticed.end.sequence == 3
    unnoticed.close()
    path.write_bytes(b"".join(lines[:2]))
    with pytest.raises(JournalDamagedError, match="an oracle has record 3"):
        again(path)


def test_the_command_verifies_a_copy_and_says_so_by_its_status(
    path: Path, journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        journal.append(draft(number))
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    assert run_command(["fallback", "verify", str(copy)]) == 0
    assert capsys.readouterr().out.startswith("whole: journal ")
    assert run_command(["fallback", "verify", str(copy), "--json"]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["sequence"] for line in shown.out.splitlines()] == [1, 2]
    assert shown.err.startswith("whole: ")
    copy.write_bytes(path.read_bytes().replace(b"drill", b"DRILL", 1))
    assert run_command(["fallback", "verify", str(copy)]) == 1
    assert "record 2 does not continue the record before it" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="there is no journal") as caught:
        run_command(["fallback", "verify", str(tmp_path / "none")])
    assert caught.value.hint == "no file here: nothing was recorded yet, or somebody has moved it away"


def test_a_pipe_that_nobody_writes_to_is_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-m", "relay.cli", "fallback", "verify", str(tmp_path / "pipe")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"blind-oracle-relay: error: {tmp_path}/pipe: expected a file\n")


def test_a_journal_may_come_by_a_pipe(path: Path, journal: Journal) -> None:
    journal.append(draft(0))
    command = [sys.executable, "-m", "relay.cli", "fallback", "verify", "/dev/stdin"]
    done = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout[:15]) == (0, b"whole: journal ")


def test_a_record_with_long_claims_fits_into_a_report(journal: Journal) -> None:
    claims = Claims(uid=1, user="b", pid=2, commands=("ü" * 1024,) * 3, job={str(n): "ä" * 1024 for n in range(2)})
    record = journal.append(draft(0, claims))
    assert len(record.line()) <= MAX_RECORD
    assert record.claims == Claims(uid=1, user="b", pid=2)
    assert journal.next_report() == (record,)


@pytest.fixture(name="small")
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", place], check=True, timeout=20)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True, timeout=20)


def fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def append_for_ever(journal: Journal) -> None:
    while True:
        journal.append(draft(1))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_refuses_before_a_key_is_used_and_goes_on_when_there_is_room(small: Path) -> None:
    journal = Journal(small / "journal.jsonl", lambda: NOW)
    journal.append(draft(0))
    filler = fill(small)
    with pytest.raises(JournalUnavailableError, match="No space left"):
        journal.check()
    with pytest.raises(JournalUnavailableError, match="No space left"):
        append_for_ever(journal)  # the file's last page has room for some
    written = journal.end
    data = (small / "journal.jsonl").read_bytes()
    assert whole_length(data) == len(data)
    assert follow(data)[0] == written
    filler.unlink()
    journal.check()
    assert journal.trouble == ""
    record = journal.append(draft(2))
    assert record.prev == written.hash
    journal.close()
    assert read(small / "journal.jsonl").damage == ""
