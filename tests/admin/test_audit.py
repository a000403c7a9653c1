import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentproxy.protocol.fields import Asserted, Claims
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.log import AuditLog, LogLimits
from agentproxy.signer.logkey import LogKey
from agentproxy.signer.record import Entry
from agentproxy.signer.segment import ZEROS_AHEAD
from tests.admin.shell import blind_oracle

# As somebody whose user id has no account, which is usual in a container.
_AS_NOBODY_KNOWN = """
import pwd
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
from agentproxy.admin.cli import main
main()
"""
SEGMENT_BYTES = 1400  # a few records, so that a log has several segments


def append(directory: Path, *operations: str) -> None:
    log = AuditLog.open(directory, "n1", LogLimits(reserve_bytes=0, rotate_bytes=SEGMENT_BYTES))
    claims = Claims(user="builder", package="hello-1.0-1.noarch")
    for operation in operations:
        log.append([Entry(operation, Outcome.DONE, Asserted(runner="b1", claims=claims), reason="why not")])
    log.close()


@pytest.fixture(name="log")
def made_log(tmp_path: Path) -> Path:
    (tmp_path / "audit").mkdir(mode=0o700)
    append(tmp_path / "audit", *(f"op{number}" for number in range(10)))
    assert len(list((tmp_path / "audit").glob("*.jsonl"))) > 2
    return tmp_path / "audit"


def test_tail_shows_the_last_records_across_segments(log: Path) -> None:
    result = blind_oracle("audit", "tail", log, "-n", "4")
    assert result.status == 0, result.errors
    heading, *rows = result.output.splitlines()
    assert heading.split()[:3] == ["sequence", "time", "(UTC)"]
    assert "claimed" in heading
    assert [row.split()[3] for row in rows] == ["op6", "op7", "op8", "op9"]
    assert "hello-1.0-1.noarch builder" in rows[0]
    assert f"{datetime.now(UTC):%Y-%m-%d}" in rows[0]


def test_tail_for_machines_is_the_records_themselves(log: Path) -> None:
    result = blind_oracle("audit", "tail", "--json", "-n", "100", environment={"BLIND_ORACLE_AUDIT_DIR": str(log)})
    lines = result.output.splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == list(range(1, 11))
    stored = b"".join(path.read_bytes() for path in sorted(log.glob("*.jsonl")))
    assert result.output.encode() == stored


def test_tail_of_nothing_is_nothing(log: Path) -> None:
    assert blind_oracle("audit", "tail", log, "-n", "0", "--json").output == ""


def test_follow_shows_records_as_they_come_also_in_a_new_segment(log: Path) -> None:
    command = [sys.executable, "-m", "agentproxy.admin", "audit", "tail", log, "-n", "1", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            assert json.loads(following.stdout.readline())["operation"] == "op9"
            append(log, *(f"new{number}" for number in range(6)))
            shown = [json.loads(following.stdout.readline())["operation"] for _ in range(6)]
            assert shown == [f"new{number}" for number in range(6)]
        finally:
            following.kill()


def test_follow_ends_with_words_when_the_log_goes_away(log: Path) -> None:
    command = [sys.executable, "-m", "agentproxy.admin", "audit", "tail", log, "-n", "1", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            assert "op9" in following.stdout.readline()
            log.rename(log.with_name("elsewhere"))
            _, errors = following.communicate(timeout=60)
            assert following.returncode == 1
            assert errors.startswith(f"blind-oracle: error: {log}: No such file or directory\n")
        finally:
            following.kill()


@pytest.mark.parametrize(
    "command", ["tail --json", "tail -n 3", "verify", "export --after 0", "query --json", "query --json --rebuild"]
)
def test_a_log_in_use_reads_like_one_that_nobody_writes(log: Path, command: str) -> None:
    words, environment = ["audit", *command.split()], {"BLIND_ORACLE_AUDIT_DIR": str(log)}
    if "query" in words:
        words += ["--cache", str(log.parent / "cache")]
    before = blind_oracle(*words, environment=environment)
    assert before.status == 0, before.errors
    last = sorted(log.glob("*.jsonl"))[-1]
    last.write_bytes(last.read_bytes() + bytes(ZEROS_AHEAD))
    assert blind_oracle(*words, environment=environment) == before


@pytest.mark.parametrize("command", ["tail -n 1", "verify", "query", "query --cache cache"])
def test_a_user_without_a_home_directory_reads_the_log_as_well(log: Path, command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    words = [sys.executable, "-c", _AS_NOBODY_KNOWN, "audit", *command.split()]
    done = subprocess.run(
        words,
        env={**environment, "BLIND_ORACLE_AUDIT_DIR": str(log)},
        cwd=log.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if command == "query":
        assert done.stderr.startswith("blind-oracle: error: --cache is needed: there is no home directory\n")
        assert done.returncode == 2
    else:
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["tail --json", "verify", "export", "query --json"])
def test_the_log_may_be_named_with_an_option_as_for_who_signed(log: Path, command: str) -> None:
    words = ["audit", *command.split(), *(["--cache", str(log.parent / "cache")] if "query" in command else [])]
    named = blind_oracle(*words, log)
    assert named.status == 0, named.errors
    elsewhere = {"BLIND_ORACLE_AUDIT_DIR": "/nowhere"}  # the command line's word counts
    assert blind_oracle(*words, "--log", log, environment=elsewhere) == named
    both = blind_oracle(*words, log, "--log", log)
    assert both.status == 2
    assert "DIRECTORY and --log both name the log" in both.errors


def test_a_whole_log_is_called_whole(log: Path) -> None:
    result = blind_oracle("audit", "verify", log)
    assert result.status == 0, result.errors
    assert result.output.startswith("whole: 10 records in ")


def test_a_changed_record_is_named_and_the_status_says_so(log: Path) -> None:
    segment = sorted(log.glob("*.jsonl"))[1]
    segment.write_bytes(segment.read_bytes().replace(b"why not", b"because", 1))
    result = blind_oracle("audit", "verify", log)
    assert result.status == 1
    assert result.output.startswith("damaged, edited: record ")
    assert str(segment) in result.output
    plain = json.loads(blind_oracle("audit", "verify", log, "--json").output)
    assert plain["whole"] is False
    assert plain["damage"]["kind"] == "edited"


@pytest.mark.parametrize("form", ["{0}", "[{0}]", '{{"heads": [{0}]}}'])
def test_a_saved_head_proves_that_nothing_was_cut_off(log: Path, form: str, tmp_path: Path) -> None:
    head = json.loads(blind_oracle("audit", "verify", log, "--json").output)["head"]
    (tmp_path / "head").write_text(form.format(json.dumps(head)))
    result = blind_oracle("audit", "verify", log, "--head", tmp_path / "head")
    assert result.status == 0, result.errors
    assert "1 saved head found in it" in result.output
    last = sorted(log.glob("*.jsonl"))[-1]
    last.write_bytes(b"".join(last.read_bytes().splitlines(keepends=True)[:-1]))
    assert blind_oracle("audit", "verify", log).status == 0
    result = blind_oracle("audit", "verify", log, "--head", tmp_path / "head")
    assert result.status == 1
    assert "cut off" in result.output


@pytest.mark.parametrize(
    "content", ["", "[]x", "5", '{"node": "a"}', '{"node":"a","sequence":0,"hash":""}', "[[]]", "[" * 2000]
)
def test_what_is_no_head_is_refused(log: Path, content: str, tmp_path: Path) -> None:
    (tmp_path / "head").write_text(content)
    result = blind_oracle("audit", "verify", log, "--head", tmp_path / "head")
    assert result.status == 1
    assert f"{tmp_path / 'head'}: expected the saved head of an audit log in JSON" in result.errors


def test_a_directory_without_a_log_is_refused(tmp_path: Path) -> None:
    for command in ("verify", "tail"):
        result = blind_oracle("audit", command, tmp_path)
        assert (result.status, result.output) == (1, "")
        assert "no audit log here" in result.errors
    assert "No such file" in blind_oracle("audit", "tail", tmp_path / "gone").errors


@pytest.mark.parametrize("command", ["verify", "tail", "export", "query"])
def test_a_fifo_with_the_name_of_a_segment_keeps_nobody_waiting(log: Path, command: str) -> None:
    fifo = log / "n1-000000000100.jsonl"
    os.mkfifo(fifo)
    words = [sys.executable, "-m", "agentproxy.admin", "audit", command, log]
    words += ["--cache", log.parent / "cache"] if command == "query" else []
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("blind-oracle: error: ")
    assert str(fifo) in result.stderr
    assert "expected a regular file" in result.stderr


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize("obstacle", [os.mkfifo, Path.mkdir, make_socket])
@pytest.mark.parametrize("has_key", [True, False])
def test_what_is_no_file_in_the_place_of_the_checkpoints_is_one_error(
    log: Path, obstacle: Callable[[Path], None], has_key: bool
) -> None:
    obstacle(log / "n1.checkpoints")
    (log.parent / "kept.pub").write_bytes(LogKey.generate().public.pem)
    words = [sys.executable, "-m", "agentproxy.admin", "audit", "verify", log]
    words += ["--public-key", log.parent / "kept.pub"] if has_key else []
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    first, *hint = result.stderr.splitlines()
    assert first.startswith(f"blind-oracle: error: {log / 'n1.checkpoints'}: ")
    assert first.endswith("expected a regular file")
    assert len(hint) == 1


def test_init_prints_the_logs_public_key_and_verify_takes_it(short: Path) -> None:
    made = blind_oracle("init", short / "s", "--node", "n1")
    assert made.status == 0, made.errors
    environment = {"BLIND_ORACLE_CONFIG": str(short / "s" / "oracle.yaml")}
    key = blind_oracle("audit", "key", environment=environment).output
    assert key.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert key in made.output
    (short / "kept.pub").write_text(key)
    result = blind_oracle("audit", "verify", "--public-key", short / "kept.pub", environment=environment)
    assert result.status == 0, result.errors
    assert "1 checkpoints up to record 1" in result.output
    taken = blind_oracle("audit", "checkpoint", environment=environment)
    assert taken.status == 0, taken.errors
    assert json.loads(taken.output)["sequence"] == 2
    plain = blind_oracle("audit", "verify", "--json", "--public-key", short / "kept.pub", environment=environment)
    assert json.loads(plain.output)["covered"] == 3


def test_a_relays_file_has_heads_of_other_oracles_too(log: Path, tmp_path: Path) -> None:
    head = json.loads(blind_oracle("audit", "verify", log, "--json").output)["head"]
    other = {"node": "n2", "sequence": 5, "hash": "00" * 32}
    (tmp_path / "heads.json").write_text(json.dumps({"heads": [other, head]}))
    result = blind_oracle("audit", "verify", log, "--head", tmp_path / "heads.json")
    assert result.status == 0, result.errors
    assert "1 saved head found in it" in result.output
    (tmp_path / "heads.json").write_text(json.dumps({"heads": [other]}))
    assert (
        "no head of n1 in it, but of n2"
        in blind_oracle("audit", "verify", log, "--head", tmp_path / "heads.json").errors
    )


def test_the_directory_that_the_operator_stands_in_lends_no_code_to_the_signer(short: Path) -> None:
    assert blind_oracle("init", short / "s", "--node", "n1").status == 0
    trap = short / "trap" / "agentproxy"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text(f"open({str(short / 'sprung')!r}, 'w').close()\n")
    command = [Path(sys.executable).with_name("blind-oracle"), "audit", "checkpoint"]
    done = subprocess.run(
        [*command, f"--config={short / 's' / 'oracle.yaml'}"],
        cwd=trap.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (short / "sprung").exists()


def test_a_forged_log_steers_no_terminal_and_shows_no_row_that_is_none(log: Path) -> None:
    *_, last = sorted(log.glob("*.jsonl"))
    *lines, line = last.read_bytes().rstrip(b"\0").splitlines()
    forged = b'"reason":"\\u001b[2Jx\\n99 2026-11-27 sign\\u202e"'
    line = line.replace(b'"reason":"why not"', b'"reason":""').replace(b'"details":{', b'"details":{' + forged)
    last.write_bytes(b"\n".join([*lines, line, b'{"x":"\x1b[2J\r\xff"}', b""]))
    result = blind_oracle("audit", "tail", log, "-n", "2")
    assert r"\x1b[2Jx\n99 2026-11-27 sign\u202e" in result.output
    assert [row.split()[0] for row in result.output.splitlines()] == ["sequence", "10", "?"]
    result = blind_oracle("audit", "tail", log, "-n", "2", "--json")
    assert result.output.splitlines() == [line.decode(), r'{"x":"\x1b[2J\r\xff"}']


def test_who_follows_sees_what_is_only_claimed(log: Path) -> None:
    command = [sys.executable, "-m", "agentproxy.admin", "audit", "tail", log, "-n", "1", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            assert following.stdout.readline().endswith("  b1  why not  claimed hello-1.0-1.noarch builder\n")
        finally:
            following.kill()
