"""Two real oracles with one authority and one registry: either may die, and gpg does not notice."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentproxy.admin.dev.processes import find
from tests.admin.shell import blind_oracle
from tests.end_to_end.load import Load, load_on
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import System, system_with, until
from tests.end_to_end.test_credential_faults import FAKETIME

DEADLINE_SECONDS = 10  # of a dev system's relay
BOTH = {"dev": "best", "dev-2": "warm"}


@pytest.fixture(name="pair", scope="module")
def made_pair(offline: Offline) -> Iterator[System]:
    with system_with({name: offline.exports[name] for name in ("modern", "legacy")}, oracles=2) as system:
        yield system


@pytest.fixture(name="system")
def running_pair(pair: System) -> System:
    pair.start()
    until(lambda: pair.standings() == BOTH, "both oracles are there, and the first one has its work back")
    return pair


def kill(system: System, name: str) -> None:
    root = {"oracle": system.directory, "oracle-2": system.directory / "oracle-2"}[name]
    process = next(find("agentproxy.admin", "serve", at=root / "oracle.yaml"))
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not process.is_running, "the killed process is gone")


def operator(system: System, *words: str | Path, node: str = "oracle") -> str:
    root = {"oracle": system.directory, "oracle-2": system.directory / "oracle-2"}[node]
    result = blind_oracle(*words, f"--config={root / 'oracle.yaml'}")
    assert result.status == 0, result.errors
    return result.output


def assert_nothing_is_lost(system: System, offline: Offline, load: Load) -> None:
    assert load.errors == []
    assert max(load.seconds) < DEADLINE_SECONDS
    system.assert_log_is_whole()
    recorded = {record["signature_sha256"]: record["digest"] for record in system.signed()}
    assert load.digests.items() <= recorded.items()
    fingerprint = offline.fingerprints["legacy"]
    assert all(system.is_good(signature, fingerprint) for signature in load.signatures)


def test_no_gpg_notices_that_oracles_are_killed_and_come_back(system: System, offline: Offline) -> None:
    with load_on(system, [offline.keygrips["modern"]], gpg=["legacy", "legacy"]) as load:
        load.wait_for(20)
        kill(system, "oracle")
        load.wait_for(20)
        system.start("oracle")
        until(lambda: system.standings().get("dev") in {"warm", "best"}, "the relay has found the first again")
        kill(system, "oracle-2")
        load.wait_for(20)
        system.start("oracle-2")
        until(lambda: system.standings() == BOTH, "both oracles are there")
        load.wait_for(20)
    assert_nothing_is_lost(system, offline, load)
    assert {record["node"] for record in system.signed()} == {"dev", "dev-2"}


def test_an_oracle_that_is_stopped_for_maintenance_hands_over(system: System, offline: Offline) -> None:
    with load_on(system, [offline.keygrips["modern"]], gpg=["legacy"]) as load:
        load.wait_for(20)
        system.stop("oracle")
        load.wait_for(20)
        doctor = system.run("blind-oracle-relay", "doctor", "--no-sign")
        system.start("oracle")
    assert_nothing_is_lost(system, offline, load)
    assert doctor.returncode == 0
    assert "and not well: 127.0.0.1:" in doctor.stdout


@pytest.mark.parametrize("part", ["oracle", "signer"])
def test_a_part_that_hangs_costs_a_gpg_half_its_deadline(system: System, part: str) -> None:
    """A stopped oracle is half open: the kernel takes everything, as for a host behind a firewall that forgot it.

    With a stopped signer pings are answered, and no request: so does a disk that hangs.
    """
    pid = system.pid(part)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        first, second = system.sign(), system.sign()
        (later, earlier) = system.last(2)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert earlier["nodes"] == ["dev", "dev-2"]
    assert later["nodes"] == ["dev-2"]
    assert isinstance(earlier["duration_ms"], int)
    assert earlier["duration_ms"] < DEADLINE_SECONDS * 1000


def test_what_one_node_revokes_ends_at_the_other_within_a_second(pair: System) -> None:
    system = pair
    system.start()
    operator(system, "runner", "disable", "dev", node="oracle-2")
    try:
        until(lambda: set(system.standings().values()) == {"away"}, "both oracles have ended the connection")
        failed = system.sign()
    finally:
        operator(system, "runner", "enable", "dev")
    assert "Forbidden" in failed.stderr
    until(lambda: system.sign().returncode == 0, "the relay is let in again")


def test_a_build_server_enrols_while_the_first_oracle_is_away(pair: System) -> None:
    system = pair
    system.start()
    file = system.directory / "new.enrolment"
    operator(system, "runner", "add", "new", "--key=modern", "--policy-add", f"--output={file}")
    system.reload_policy("oracle-2")  # each node has a policy of its own, and this one did not see the change yet
    kill(system, "oracle")
    places = ("--state", system.directory / "new" / "state", "--socket", system.directory / "new" / "S.gpg-agent")
    config = system.directory / "new" / "relay.yaml"
    done = system.run("blind-oracle-relay", "enroll", f"--config={config}", *places, file)
    assert done.returncode == 0, done.stderr
    assert config.read_text().count("- address:") == 2
    enrolled = [record for record in system.records() if record["operation"] == "enrolled"]
    assert enrolled[-1]["node"] == "dev-2"


@pytest.mark.parametrize(("wrong", "word"), [("+3600", "ahead of"), ("-240", "behind")])
def test_a_build_server_whose_clock_is_wrong_signs_and_says_so(pair: System, wrong: str, word: str) -> None:
    with relay_with_clock(pair, wrong):
        until(pair.is_connected, "the relay is let in")
        signed, status = pair.sign(), pair.run("blind-oracle-relay", "status").stdout
    assert signed.returncode == 0, signed.stderr
    assert f"s {word} dev" in status
    assert "CLOCK" in status


def test_a_clock_an_hour_behind_is_named_as_the_reason_why_no_certificate_is_good(pair: System) -> None:
    with relay_with_clock(pair, "-3600"):
        until(lambda: "not yet valid; this host's clock says" in status_of(pair), "the relay says what is wrong")


def status_of(system: System) -> str:
    return system.run("blind-oracle-relay", "status").stdout


@contextmanager
def relay_with_clock(system: System, seconds: str) -> Iterator[None]:
    """Both oracles, and a relay whose time of day is wrong."""
    system.start()
    system.stop("relay")
    config = system.directory / "relay" / "relay.yaml"
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": seconds, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with (system.directory / "log" / "clock.log").open("a") as log:
        command = ["blind-oracle-relay", "serve", f"--config={config}"]
        with subprocess.Popen(command, env={**system.environment, **faked}, stderr=log) as process:
            try:
                yield
            finally:
                process.terminate()
