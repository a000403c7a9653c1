"""With all parts real: a kill between audit log and registry, yesterday's backup, a clock that jumps."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentproxy.protocol.times import parse_time
from tests.admin.shell import blind_oracle
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import System, system_with, until

(FAKETIME,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")


def registry_files(system: System) -> list[Path]:
    return sorted((system.directory / "oracle").glob("registry.sqlite*"))


def operator(system: System, *words: str | Path) -> str:
    result = blind_oracle(*words, f"--config={system.directory / 'oracle.yaml'}")
    assert result.status == 0, result.errors
    return result.output


def token_in_use(system: System) -> str:
    assert system.sign().returncode == 0
    asserted = system.signed()[-1]["asserted"]
    assert isinstance(asserted, dict)
    return str(asserted["token"])


@contextmanager
def relay_alone(system: System) -> Iterator[Path]:
    """A relay that nobody waits for until it is connected, and its log."""
    log = system.directory / "log" / "alone.log"
    config = system.directory / "relay" / "relay.yaml"
    with log.open("w") as file:
        command = ["blind-oracle-relay", "serve", f"--config={config}"]
        with subprocess.Popen(command, env=system.environment, stderr=file) as process:
            try:
                yield log
            finally:
                process.terminate()


def test_yesterday_s_registry_does_not_bring_a_revoked_token_back(offline: Offline) -> None:
    with system_with({"modern": offline.exports["modern"]}) as system:
        token = token_in_use(system)
        system.stop()
        yesterday = system.directory / "yesterday"
        yesterday.mkdir()
        for file in registry_files(system):
            shutil.copy2(file, yesterday)
        operator(system, "token", "revoke", token)
        for file in registry_files(system):
            file.unlink()
        for file in yesterday.iterdir():
            shutil.copy2(file, system.directory / "oracle")
        before = len(system.signed())

        system.start("oracle")
        with relay_alone(system) as log:
            until(lambda: "this token was revoked" in log.read_text(), "the relay is rejected")
            failed = system.sign()

        assert failed.returncode != 0
        assert failed.stdout == ""
        assert len(system.signed()) == before
        assert "the registry had missed changes of credentials, made now, number=1" in system.log("oracle")
        system.assert_log_is_whole()


def test_an_oracle_killed_behind_the_record_makes_the_change_at_its_next_start(system: System) -> None:
    """The registry is written to its write-ahead log first: there strace kills the oracle, before the write happens."""
    token_in_use(system)
    system.stop()
    system.start("oracle")
    file = system.directory / "again.enrolment"
    operator(system, "runner", "enroll", "dev", f"--output={file}")
    pid, issued = system.pid("oracle"), issues_in(system)
    assert pid is not None
    with killed_at_the_registry(system, pid):
        enrol = ("blind-oracle-relay", "enroll", file, f"--config={system.directory / 'relay' / 'relay.yaml'}")
        failed = system.run(*enrol, "--replace")
        assert failed.returncode != 0
        until(lambda: system.pid("oracle") is None, "the oracle is killed")
    until(lambda: system.pid("signer") is None, "the signer follows its oracle")
    assert issues_in(system) == issued + 1  # recorded, and not made

    system.start("oracle")
    assert "the registry had missed changes of credentials, made now, number=1" in system.log("oracle")
    done = system.run(*enrol, "--replace")  # nothing that the file gave was used
    assert done.returncode == 0, done.stderr
    system.start()
    assert system.sign().returncode == 0
    system.assert_log_is_whole()


def issues_in(system: System) -> int:
    return sum(record["operation"] == "credentials_issued" for record in system.records())


@contextmanager
def killed_at_the_registry(system: System, pid: int) -> Iterator[None]:
    written = system.directory / "oracle" / "registry.sqlite-wal"
    trace = system.directory / "log" / "strace.log"
    options = [f"--trace-path={written}", "--trace=pwrite64", "--inject=pwrite64:error=EIO:signal=SIGKILL:when=1"]
    with trace.open("w") as file:
        with subprocess.Popen(["strace", "-f", *options, "-p", str(pid)], stderr=file) as process:
            try:
                until(lambda: re.search(r"attached", trace.read_text()) is not None, "strace is attached")
                yield
            finally:
                process.terminate()


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is written there is by how much every process's clock is wrong; the monotonic one stays right."""
    made = tmp_path / "clock"
    made.write_text("+0\n")
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(made))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    return made


def test_a_clock_that_jumps_stops_nothing_and_the_log_stays_whole(offline: Offline, clock: Path) -> None:
    with system_with({"modern": offline.exports["modern"]}) as system:
        for jump in ("+0", "+2d", "-1d", "+0"):
            clock.write_text(f"{jump}\n")
            done = system.sign()
            assert done.returncode == 0, f"{jump}: {done.stderr}"
        system.assert_log_is_whole()
        records = system.records()
        times = [parse_time(str(record["time"])) for record in system.signed()]
    assert [record["sequence"] for record in records] == list(range(1, len(records) + 1))
    assert [round((moment - times[0]).total_seconds() / 86_400) for moment in times] == [0, 2, -1, 0]


def test_a_clock_that_jumps_forward_gives_no_more_signatures_and_one_that_jumps_back_no_fewer(
    offline: Offline, clock: Path
) -> None:
    with system_with({"modern": offline.exports["modern"]}) as system:
        policy = system.directory / "policy.yaml"
        text = policy.read_text()
        limited = text.replace("    keys: [modern]\n", "    keys: [modern]\n    rate: 1\n    burst: 1\n")
        assert limited != text
        policy.write_text(limited)
        oracle = system.pid("oracle")
        assert oracle is not None
        os.kill(oracle, signal.SIGHUP)
        until(lambda: "policy reloaded" in system.log("oracle"), "the oracle has the limit")

        began = time.monotonic()
        signed = 0
        for days in range(20):
            clock.write_text(f"+{days}d\n")
            signed += system.sign().returncode == 0
        assert 1 <= signed <= 2 + (time.monotonic() - began)  # the burst, and one for each second that really passed

        clock.write_text("-30d\n")
        until(lambda: system.sign().returncode == 0, "the bucket fills by the time that really passes")
        system.assert_log_is_whole()
