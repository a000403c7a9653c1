"""`kill -9` of each part under load: it comes back, and every signature that anybody got has its record."""

import os
import random
import signal
from pathlib import Path

import pytest

from agentproxy.admin.dev.processes import Process, find
from tests.end_to_end.load import Load, load_on
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import System, until

KILLS = 15


def signer_of(system: System) -> Process | None:
    return next(find("agentproxy.signer", at=system.directory / "signer" / "signer.yaml"), None)


def kill(process: Process | None) -> int:
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not process.is_running, "the killed process is gone")
    return process.pid


def part(system: System, name: str) -> Process | None:
    module = {"oracle": "agentproxy.admin", "relay": "relay.cli"}[name]
    return next(find(module, "serve", at=system.directory), None)


def assert_everything_is_recorded(system: System, offline: Offline, load: Load) -> None:
    """By the operator's verify, by the count of what clients got, and by gpg's own verification."""
    system.assert_log_is_whole()
    recorded = {record["signature_sha256"]: record["digest"] for record in system.signed()}
    assert load.digests.items() <= recorded.items()
    by_gpg = [record for record in system.signed() if record["fingerprint"] == offline.fingerprints["legacy"]]
    assert len(load.signatures) <= len(by_gpg)
    assert system.is_good(load.signatures[-1], offline.fingerprints["legacy"])
    assert all(record["outcome"] != "signed" or record["signature_sha256"] for record in system.records())


def test_every_signature_that_came_out_while_the_signer_was_killed_again_and_again_has_its_record(
    system: System, offline: Offline
) -> None:
    chance, oracle, killed = random.Random(15), system.pid("oracle"), set[int]()
    with load_on(system, [offline.keygrips["modern"]], gpg=["legacy", "legacy"]) as load:
        for _ in range(KILLS):
            load.wait_for(chance.randrange(1, 60))
            # What was signed before may come out after the kill: the next signer need not be there yet.
            until(lambda: signer_of(system) is not None, "the oracle has started the signer again")
            killed.add(kill(signer_of(system)))
        load.wait_for(1)
    assert system.pid("oracle") == oracle
    # On a busy machine a signer may take longer than the relay's tries: that is said, and nothing else.
    assert all("AssuanError('176')" in error or "Not operational" in error for error in load.errors), load.errors
    # Not one start record for each: a kill may hit a signer before it has written any.
    assert len(killed) == KILLS
    assert_everything_is_recorded(system, offline, load)


@pytest.mark.parametrize("name", ["oracle", "relay"])
def test_a_killed_part_comes_back_by_dev_start_and_nothing_is_lost(system: System, offline: Offline, name: str) -> None:
    with load_on(system, [offline.keygrips["modern"]], gpg=["legacy"]) as load:
        for _ in range(2):
            load.wait_for(20)
            kill(part(system, name))
            system.start(name)
        load.wait_for(20)
    assert system.dev("status").status == 0
    assert_everything_is_recorded(system, offline, load)


def test_a_record_that_a_kill_tore_is_kept_beside_the_log(system: System, offline: Offline) -> None:
    """What kill(2) seldom does to a small write, a power loss does: the end of a line is missing."""
    assert system.sign().returncode == 0
    kill(part(system, "oracle"))
    until(lambda: signer_of(system) is None, "the signer follows its oracle")
    segment = sorted(system.audit.glob("*.jsonl"))[-1]
    with segment.open("r+b") as file:
        file.seek(file.read().rindex(b"\n") + 1)
        file.write(b'{"sequence":')  # over zeros that lie there for records
    system.start("oracle")
    assert system.sign().returncode == 0
    system.assert_log_is_whole()
    assert [Path(str(segment) + ".torn-1").read_bytes()] == [b'{"sequence":']
    assert "recovered" in {record["operation"] for record in system.records()}
