"""The log is shipped in parts that, put together, are the log."""

from pathlib import Path

import pytest

from tests.admin.shell import Result, blind_oracle
from tests.signer.logs import LogLimits, write_log


@pytest.fixture(name="log")
def made_log(tmp_path: Path) -> Path:
    (tmp_path / "audit").mkdir()
    write_log(tmp_path / "audit", 10, LogLimits(reserve_bytes=0, rotate_bytes=2000))
    return tmp_path / "audit"


def export(log: Path, *options: str | Path) -> Result:
    return blind_oracle("audit", "export", log, *options)


def stored(log: Path) -> str:
    return "".join(path.read_text() for path in sorted(log.glob("*.jsonl")))


def test_parts_put_together_are_the_log(log: Path, tmp_path: Path) -> None:
    parts = [export(log, "--position", tmp_path / "position", "--limit", "4").output for _ in range(5)]
    assert [len(part.splitlines()) for part in parts] == [4, 4, 2, 0, 0]
    assert "".join(parts) == stored(log)
    write_log(log, 2)
    parts.append(export(log, "--position", tmp_path / "position").output)
    assert len(parts[-1].splitlines()) == 2
    assert "".join(parts) == stored(log)


@pytest.mark.parametrize(("after", "count"), [("0", 10), ("3", 7), ("9", 1), ("10", 0)])
def test_it_begins_behind_a_record(log: Path, after: str, count: int) -> None:
    assert export(log, "--after", after).output == "".join(stored(log).splitlines(keepends=True)[10 - count :])


@pytest.mark.parametrize("limit", ["5", "10"])
def test_a_log_that_was_rewritten_is_not_taken_for_the_old_one(log: Path, tmp_path: Path, limit: str) -> None:
    export(log, "--position", tmp_path / "position", "--limit", limit)
    for path in log.iterdir():
        path.unlink()
    write_log(log, 10)
    result = export(log, "--position", tmp_path / "position")
    assert (result.status, result.output) == (1, "")
    assert "the log does not continue what was exported" in result.errors


def test_a_log_that_was_cut_is_not_taken_for_one_without_news(log: Path, tmp_path: Path) -> None:
    export(log, "--position", tmp_path / "position")
    sorted(log.glob("*.jsonl"))[-1].unlink()
    result = export(log, "--position", tmp_path / "position")
    assert (result.status, result.output) == (1, "")
    assert "the log ends with record 9, before record 10" in result.errors


def test_records_that_were_archived_are_missed(log: Path) -> None:
    sorted(log.glob("*.jsonl"))[0].unlink()
    assert "records 1 to 3 are not there" in export(log).errors
    assert len(export(log, "--after", "3").output.splitlines()) == 7


@pytest.mark.parametrize("after", ["-1", "01", "5:ab", "", "x"])
def test_what_is_no_place_is_refused(log: Path, after: str) -> None:
    result = export(log, "--after", after)
    assert (result.status, result.output) == ((0, stored(log)) if after == "" else (1, ""))


@pytest.mark.parametrize("content", ["", "yesterday\n"])
def test_a_position_that_is_none_is_told_with_its_file(log: Path, tmp_path: Path, content: str) -> None:
    position = tmp_path / "position"
    position.write_text(content)
    result = export(log, "--position", position)
    assert (result.status, result.output) == (1, "")
    assert result.errors.startswith(f"blind-oracle: error: {position}: expected SEQUENCE or SEQUENCE:HASH")
    assert position.read_text() == content


@pytest.mark.parametrize("forged", [b"\x1b[2J\r", b"\xff", "\u202e".encode(), b'","outcome":"signed'])
def test_what_is_no_record_is_not_exported_though_it_continues_the_log(log: Path, forged: bytes) -> None:
    *_, last = sorted(log.glob("*.jsonl"))
    *lines, line = last.read_bytes().rstrip(b"\0").splitlines()
    start, member, rest = line.partition(b'"reason":"')
    last.write_bytes(b"\n".join([*lines, start + member + forged + rest, b""]))
    result = export(log)
    assert (result.status, len(result.output.splitlines())) == (1, 9)
    assert f"{last}: the log does not continue what was exported: a record is not in its" in result.errors
