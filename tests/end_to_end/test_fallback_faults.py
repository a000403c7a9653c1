"""Fallback while things die: the oracle goes and comes back, relays are killed at each step, a runner lies."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.journal import FIRST_PREV, JournalOperation, JournalRecord, Report, Reported
from agentproxy.protocol.keys import Fingerprint, Keygrip
from tests.admin.shell import blind_oracle
from tests.end_to_end.fallbackhost import FallbackHost, allow, fallback_host
from tests.end_to_end.hostile import hostile_relay
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, System, forget_home, is_traced, until


@pytest.fixture(name="made", scope="module")
def made_host(offline: Offline) -> Iterator[FallbackHost]:
    with fallback_host(offline) as host:
        yield host


@pytest.fixture(name="host")
def host_that_may_fall_back(made: FallbackHost) -> FallbackHost:
    made.system.start()
    until(made.system.is_connected, "the relay reaches the oracle")
    allow(made.system)
    made.off()
    return made


def sign(host: FallbackHost, text: str = "some text") -> str:
    """By the host's own key; empty when gpg failed."""
    done = host.system.gpg("--local-user", f"{host.own}!", "--armor", "--detach-sign", text=text)
    return done.stdout if done.returncode == 0 else ""


def own_signatures(host: FallbackHost) -> set[object]:
    return {record["signature_sha256"] for record in host.records() if record["operation"] == "sign"}


def assert_all_is_there(host: FallbackHost) -> None:
    """What the journal holds is in the audit log, each found once, and both are whole."""
    until(host.all_is_delivered, "the journal is delivered")
    assert host.fallback("verify").returncode == 0
    host.system.assert_log_is_whole()
    assert own_signatures(host) <= {record["signature_sha256"] for record in host.delivered()}
    words = ("audit", "query", host.system.audit, "--channel", "fallback", "--json")
    found = [
        json.loads(line) for line in blind_oracle(*words, "--cache", host.system.directory / "c").output.splitlines()
    ]
    journal = host.records()[0]["journal"]
    ours = [one["record"] for one in found if one["record"]["details"]["journal"] == journal]
    assert len(ours) == len(host.records())
    assert all(record["reason"] == "" for record in ours), ours


def test_auto_bridges_an_outage_and_the_oracle_hears_of_it_afterwards(host: FallbackHost, offline: Offline) -> None:
    system = host.system
    config = system.directory / "relay" / "relay.yaml"
    before = config.read_text()
    system.stop("relay")
    config.write_text(f"{before}fallback:\n  mode: auto\n  after_seconds: 1\n")
    try:
        system.start("relay")
        assert host.fallback("reset", "--reason", "as relay.yaml says").returncode == 0
        assert host.status["active"] is False
        system.stop("oracle")
        until(lambda: host.status["active"] is True, "fallback becomes active")
        assert system.is_good(sign(host), host.own)
        system.start("oracle")
        until(lambda: host.status["active"] is False, "fallback ends")
        assert system.is_good(system.sign().stdout, offline.fingerprints["modern"])
        assert_all_is_there(host)
    finally:
        system.stop("relay")
        config.write_text(before)
        system.start("relay")


@contextmanager
def killed_at(host: FallbackHost, calls: str) -> Iterator[None]:
    """The relay gets SIGKILL when it next makes one of these system calls."""
    pid = host.system.pid("relay")
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
    tracer = subprocess.Popen([*words, "-e", f"inject={calls}:signal=SIGKILL", "-p", str(pid)])
    try:
        until(lambda: is_traced(pid, tracer.pid), "the tracer is there")
        yield
        tracer.wait(SECONDS)
    finally:
        tracer.terminate()
        tracer.wait(SECONDS)
    until(lambda: host.system.pid("relay") is None, "the relay is dead")


STEPS = {
    "before the agent is asked": "connect",
    "while the record is written": "pwrite64",
    "before the record is on disk": "fdatasync",
    "when the oracle has answered a report": "rename,renameat,renameat2",
}


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("step", STEPS)
def test_a_relay_that_is_killed_loses_no_record_of_a_signature_that_gpg_got(host: FallbackHost, step: str) -> None:
    host.on()
    got = {sign(host, "before")}
    until(host.all_is_delivered, "the journal is delivered")
    with killed_at(host, STEPS[step]):
        got.add(sign(host, "while it dies"))
    until(lambda: host.system.pid("relay") is None, "the relay is dead")
    host.system.start("relay")
    until(host.system.is_connected, "the relay is back")
    assert host.status["active"] is True
    got.add(sign(host, "after"))
    assert len(own_signatures(host)) >= len(got - {""})
    assert_all_is_there(host)


def test_an_oracle_that_dies_in_the_middle_of_a_delivery_gets_the_rest_and_all_is_found_once(
    host: FallbackHost,
) -> None:
    system = host.system
    host.on()
    system.stop("oracle")
    for number in range(70):  # three reports
        assert sign(host, str(number))
    before = system.log("oracle").count("fallback records")
    assert not host.all_is_delivered()
    system.start("oracle")
    until(lambda: system.log("oracle").count("fallback records") > before, "the first report has come")
    host.kill("oracle")
    system.start("oracle")
    assert_all_is_there(host)
    assert len({record["request"] for record in host.delivered()}) == len(own_signatures(host))


def test_of_two_oracles_whichever_is_there_gets_the_journal_and_together_they_have_all_of_it(offline: Offline) -> None:
    with fallback_host(offline, oracles=2) as host:
        host.on()
        assert sign(host, "first")
        until(host.all_is_delivered, "the first oracle has it")
        host.system.stop("oracle")
        assert sign(host, "second")
        until(host.all_is_delivered, "the second oracle has it")
        host.system.start("oracle")
        delivered = host.delivered()
        assert {record["signature_sha256"] for record in delivered} == own_signatures(host)
        assert {record["node"] for record in delivered} == {"dev", "dev-2"}
        assert {record["reason"] for record in delivered} == {""}
        result = blind_oracle("audit", "verify", host.system.audits[1])
        assert result.status == 0
        assert "another oracle has them, or nobody" in result.output


async def test_what_a_runner_reports_against_the_policy_stands_in_the_log_with_the_reason_and_check_warns(
    host: FallbackHost,
) -> None:
    system = host.system
    allow(system, allowed=False)
    record = JournalRecord(
        "cd" * 16,
        1,
        datetime.now(UTC),
        JournalOperation.SIGN,
        "e" * 32,
        FIRST_PREV,
        "forced",
        "because I can",
        Fingerprint(bytes(20)),
        Keygrip(bytes(20)),
        Digest(HashAlgorithm.SHA256, bytes(32)),
        bytes(32),
    )
    async with hostile_relay(system) as hostile:
        assert isinstance(await hostile.ask(Report("f" * 32, (record,))), Reported)
        assert isinstance(await hostile.ask(Report("f" * 32, (replace(record, reason="now other"),))), Reported)
    first, second = host.delivered()[-2:]
    assert first["reason"] == "runners.dev.fallback: the policy does not let it sign by itself"
    assert "another record 1 had been reported" in str(second["reason"])
    assert "a fallback record should not exist, runner=dev" in system.log("oracle")
    shown = system.run("blind-oracle", "check", "--config", system.directory / "oracle.yaml").stdout
    assert "fallback: record" in shown
    assert "the policy does not let it sign by itself" in shown
    result = blind_oracle("audit", "verify", system.audit)
    assert "runner dev reported from 2 journals" in result.output
    assert "two different records 1 were reported" in result.output


def test_behind_a_journal_that_was_moved_away_as_evidence_the_next_signature_begins_another(offline: Offline) -> None:
    """What docs/RUNNERS.md says, while the relay runs."""
    with fallback_host(offline) as host:
        host.on()
        assert sign(host, "first")
        until(host.all_is_delivered, "the first journal is delivered")
        lines = host.journal.read_bytes()
        host.journal.write_bytes(lines.replace(b"drill", b"DRILL"))
        assert host.fallback("verify").returncode == 1
        assert not sign(host, "second")
        evidence = host.system.directory / "evidence"
        evidence.mkdir()
        for name in ("journal.jsonl", "delivered.json"):
            (host.journal.parent / name).rename(evidence / name)
        done = host.fallback("verify")
        assert done.returncode == 1
        assert "there is no journal" in done.stderr
        assert "hint: no file here" in done.stderr
        assert sign(host, "third")
        until(host.all_is_delivered, "the second journal is delivered")
        assert [record["sequence"] for record in host.records()] == [1]
        assert host.fallback("verify").returncode == 0
        assert "the journal is no longer here" in host.system.log("relay")
        host.system.stop("relay")
        host.system.start("relay")
        host.on()
        assert sign(host, "fourth")
        assert_all_is_there(host)
        assert len(host.delivered()) == 3
        assert "runner dev reported from 2 journals" in blind_oracle("audit", "verify", host.system.audit).output


def test_two_relays_have_two_journals_and_one_state_has_one_relay(offline: Offline, tmp_path: Path) -> None:
    with fallback_host(offline) as first, second_relay(first.system) as second:
        first.on()
        done = first.system.run("blind-oracle-relay", "serve")
        assert done.returncode == 1
        assert "another relay" in done.stderr
        words = ("fallback", "on", "--for", "1h", "--reason", "drill", "--config", second)
        assert first.system.run("blind-oracle-relay", *words).returncode == 0
        assert sign(first)
        with second_home(first.system, second) as home:
            done = first.system.gpg("--homedir", home, "--detach-sign", "-o", home / "sig", text="x")
            assert done.returncode == 0, done.stderr
        until(lambda: len({str(one["details"]["journal"]) for one in first.delivered()}) == 2, "both are delivered")  # type: ignore[index]
        runners = {str(record["asserted"]["runner"]) for record in first.delivered()}  # type: ignore[index]
        assert runners == {"dev", "b2"}
        notes = blind_oracle("audit", "verify", first.system.audit, "--json").output
        assert "journal" not in notes


@contextmanager
def second_relay(system: System) -> Iterator[Path]:
    """Another build server beside the dev system's, with a key of its own; its relay.yaml."""
    place = system.directory / "b2"
    place.mkdir(mode=0o700)
    words = (
        "--key",
        "modern",
        "--policy-add",
        "--output",
        place / "file",
        "--config",
        system.directory / "oracle.yaml",
    )
    result = blind_oracle("runner", "add", "b2", *words)
    assert result.status == 0, result.errors
    policy = system.directory / "policy.yaml"
    policy.write_text(policy.read_text().replace("  b2:\n", "  b2:\n    fallback: true\n"))
    system.reload_policy()
    config = place / "relay.yaml"
    for command in (("enroll", place / "file"), ("fallback", "setup", "--make", "rsa2048")):
        done = system.run("blind-oracle-relay", *command, "--config", config)
        assert done.returncode == 0, done.stderr
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen(
            ["blind-oracle-relay", "serve", "--config", config], env=system.environment, stderr=log
        ) as relay,
    ):
        try:
            status = ("blind-oracle-relay", "status", "--config", config)
            until(lambda: system.run(*status).returncode == 0, "the second relay is connected")
            yield config
        finally:
            relay.send_signal(signal.SIGTERM)
            relay.wait(SECONDS)
            forget_home(place / "state" / "fallback" / "gnupg")


@contextmanager
def second_home(system: System, config: Path) -> Iterator[Path]:
    home = config.parent / "home"
    done = system.run("blind-oracle-relay", "setup", "--config", config, "--home", home)
    assert done.returncode == 0, done.stderr
    try:
        yield home
    finally:
        forget_home(home)


def test_the_host_clock_going_back_gives_a_running_switch_no_time(host: FallbackHost) -> None:
    """The relay under a wall clock that is a day late: what counts is the time since boot."""
    if shutil.which("faketime") is None:
        pytest.skip("needs faketime")
    host.on("3s")
    host.system.stop("relay")
    environment = {**host.system.environment, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    config = host.system.directory / "relay" / "relay.yaml"
    words = ["faketime", "-f", "-1d", "blind-oracle-relay", "serve", "--config", str(config)]
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True) as relay:
        try:
            status = ("blind-oracle-relay", "status", "--json")
            until(lambda: host.system.run(*status).stdout, "the relay answers")
            until(lambda: host.status["active"] is False, "the switch is over")
        finally:
            os.killpg(relay.pid, signal.SIGTERM)
            relay.wait(SECONDS)
    host.system.start("relay")
    assert host.status["mode"] == "never"
