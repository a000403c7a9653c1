"""What `blind-oracle-sign` says: all of it, to whoever reads, however slowly."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

import pytest

from agentproxy.protocol.errors import ConfigError
from relay.sealed.fate import Outcome, Result
from relay.sealed.report import Report

SECONDS = 30
NUMBER = 200
REASON = "x" * 4096  # sixteen of them fill a pipe


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, TextIO]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as writer:
        yield reader, writer


def test_a_slow_reader_holds_up_who_tells_until_it_reads(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[BinaryIO, TextIO]
) -> None:
    reader, stdout = pipe
    told: list[int] = []
    full = threading.Event()

    def is_interrupted() -> bool:
        full.set()  # asked by whoever waits for room
        return False

    monkeypatch.setattr(sys, "stdout", stdout)
    report = Report(NUMBER, as_json=True, quiet=False, is_interrupted=is_interrupted)

    def tell() -> None:
        with report.writing():
            for number in range(NUMBER):
                report.tell(Result(Path(str(number)), Outcome.FAILED, REASON))
                told.append(number)
        stdout.close()

    telling = threading.Thread(target=tell)
    telling.start()
    assert full.wait(SECONDS)
    assert 64 <= len(told) < NUMBER
    lines = reader.read().splitlines()
    telling.join(SECONDS)
    assert [int(json.loads(line)["file"]) for line in lines] == list(range(NUMBER))
    assert report.is_written
    assert not report.is_good


def test_who_interrupts_does_not_wait_for_a_reader_that_never_comes(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[BinaryIO, TextIO]
) -> None:
    reader, stdout = pipe
    looks: list[int] = []

    def is_interrupted() -> bool:
        looks.append(1)
        return len(looks) > 3

    monkeypatch.setattr(sys, "stdout", stdout)
    report = Report(NUMBER, as_json=True, quiet=False, is_interrupted=is_interrupted)
    with report.writing():
        for number in range(NUMBER):
            report.tell(Result(Path(str(number)), Outcome.FAILED, REASON))
    assert not report.is_written
    assert report._writer is not None
    threading.Thread(target=reader.read, daemon=True).start()  # lets it, and with it the stream, go
    report._writer.join(SECONDS)


class FullDisk(io.StringIO):
    """Takes nothing."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def test_who_cannot_be_told_ends_the_run_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", FullDisk())
    report = Report(1, as_json=True, quiet=False)
    with pytest.raises(ConfigError, match="cannot be told: No space left"):
        with report.writing():
            report.tell(Result(Path("one"), Outcome.FAILED, "reason"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"plain.rpm", {"file": "plain.rpm", "signature": "plain.rpm"}),
        ("ä€😀.rpm".encode(), {"file": "ä€😀.rpm", "signature": "ä€😀.rpm"}),
        (b"a\xff\n.rpm", {"file": "a\ufffd\n.rpm", "signature": "a\ufffd\n.rpm", "file_bytes": "61ff0a2e72706d"}),
    ],
)
def test_a_name_that_is_no_utf_8_is_told_in_valid_json_and_in_bytes(
    capsys: pytest.CaptureFixture[str], name: bytes, told: dict[str, str]
) -> None:
    file = Path(os.fsdecode(name))
    report = Report(1, as_json=True, quiet=False)
    with report.writing():
        report.tell(Result(file, Outcome.SIGNED, signature=file))
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {**told, "outcome": "signed"}
    json.loads(line)["file"].encode("utf-8")  # half a surrogate pair could not be


def detached_with(redirection: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """The client, told to sign a file; its configuration is damaged, and read behind the command line."""
    (directory / "relay.yaml").write_text("damaged")
    script = f'exec "$0" -m relay.sealed.cli detached --json --config relay.yaml file {redirection}'
    command = ["bash", "-c", script, sys.executable]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=directory, env=variables
    )


def test_results_for_a_program_are_not_made_when_nobody_can_read_them(tmp_path: Path) -> None:
    done = detached_with(">&-", tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "blind-oracle-sign: error: standard output is closed")


def test_what_stops_a_run_is_no_line_for_a_program_when_standard_error_is_closed(tmp_path: Path) -> None:
    done = detached_with("2>&-", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.fixture
def terminal() -> Iterator[tuple[BinaryIO, TextIO]]:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as screen, os.fdopen(theirs, "w") as stderr:
        yield screen, stderr


@pytest.mark.parametrize(("columns", "has_bar"), [(120, True), (57, True), (40, True), (31, False), (1, False)])
def test_the_bar_stays_on_one_line_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: tuple[BinaryIO, TextIO], columns: int, has_bar: bool
) -> None:
    screen, stderr = terminal
    termios.tcsetwinsize(stderr, (24, columns))
    monkeypatch.setattr(sys, "stderr", stderr)
    report = Report(20, as_json=False, quiet=False)
    with report.writing():
        for number in range(20):  # what a terminal takes, though nobody reads yet
            report.tell(Result(Path(str(number)), Outcome.SIGNED))
    stderr.write("\nend\n")
    stderr.flush()
    shown = b""
    while not shown.endswith(b"end\r\n"):
        shown += screen.read(65536)
    plain = re.sub(rb"\x1b\[[?0-9]*[a-zA-Z]", b"", shown.removesuffix(b"end\r\n"))
    assert max(len(line) for line in re.split(rb"[\r\n]+", plain)) <= columns
    assert (b"20/20" in plain) == has_bar


def test_who_has_closed_standard_error_has_files_signed_nonetheless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    report = Report(2, as_json=False, quiet=False)
    with report.writing():
        report.tell(Result(Path("one"), Outcome.SIGNED))
        report.tell(Result(Path("two"), Outcome.FAILED, "reason"))
    report.sum()
    assert not report.is_good
    assert capsys.readouterr().out == ""
