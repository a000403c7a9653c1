"""The real signer, held to the contract of the fake one, and run as the oracle's child."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.daemon import Oracle
from agentproxy.oracle.signerlink import SignerLink
from agentproxy.oracle.signerprocess import SignerProcess
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.oracle_messages import Signed, Welcome
from agentproxy.runtime.config import load
from agentproxy.signer import verify
from tests.oracle.samples import digest, sign
from tests.oracle.signer_contract import *  # noqa: F403  the contract's tests
from tests.oracle.signer_contract import Check
from tests.oracle.test_daemon import RUN
from tests.oracle.test_metrics import listening_oracle, scrape, values
from tests.oracle.world import ORACLE, SECONDS, Client, Enrolled, World, connected, context, until
from tests.signer.conftest import GnupgHome, new_home
from tests.signer.logs import records_in
from tests.signer.running import signer, state


@pytest.fixture(scope="module")
def keys() -> Iterator[GnupgHome]:
    made = new_home()
    try:
        made.make("ed25519", "ed25519")
        yield made
    finally:
        made.remove()


@pytest.fixture
def signer_state(keys: GnupgHome) -> Iterator[Path]:
    with state(keys, "ed25519") as directory:
        yield directory


@pytest.fixture
def signer_socket(signer_state: Path) -> Iterator[Path]:
    with signer(signer_state):
        yield signer_state / "signer.sock"


@pytest.fixture
def is_good() -> Check:
    return verify.check


@pytest.fixture
def both(short: Path, signer_state: Path, keys: GnupgHome) -> World:
    """An oracle's files, told to start the signer itself."""
    made = World(short)
    made.registry.close()
    there = signer_state
    text = ORACLE.replace("{socket: signer.sock}", f"{{socket: {there}/signer.sock, config: {there}/signer.yaml}}")
    (short / "oracle.yaml").write_text(text + f"address_file: {short}/oracle.address\n")
    fingerprint = keys.fingerprints["ed25519"]
    policy = f"keys: {{ed: {{fingerprint: {fingerprint}, type: modern}}}}\nrunners: {{a: {{keys: [ed]}}}}\n"
    (short / "policy.yaml").write_text(policy)
    return made


async def signed(client: Client, number: int, keys: GnupgHome) -> bool:
    request = sign(number)
    request = type(request)(request.id, keys.grips["ed25519"], digest(str(number)), 30_000)
    return isinstance(await client.ask(request), Signed)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] or [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def signer_of(pid: int) -> int:
    (found,) = [
        child for child in children_of(pid) if b"agentproxy.signer" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return found


async def test_a_killed_signer_is_started_again_and_its_oracle_takes_it_along(both: World, keys: GnupgHome) -> None:
    who = both.enrol("a")
    command = [sys.executable, "-c", RUN, str(both.directory / "oracle.yaml")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await trio.lowlevel.open_process(command, env=environment)
    try:
        await until((both.directory / "oracle.address").exists)
        await _use_and_kill_the_signer(both, who, keys, process.pid)
        left = signer_of(process.pid)
        process.kill()
        await until(lambda: not Path(f"/proc/{left}").exists())
    finally:
        with trio.move_on_after(SECONDS, shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _use_and_kill_the_signer(both: World, who: Enrolled, keys: GnupgHome, pid: int) -> None:
    address = (both.directory / "oracle.address").read_text().strip()
    async with connected(address, context(who.certificate)) as client:
        assert isinstance(await client.hello(who.token), Welcome)
        assert await signed(client, 1, keys)
        os.kill(signer_of(pid), signal.SIGKILL)
        with trio.fail_after(SECONDS):
            number = 2
            while not await signed(client, number, keys):
                number += 1
                await trio.sleep(0.05)


async def test_metrics_tell_what_the_signer_says_of_itself_and_of_its_log(
    both: World, keys: GnupgHome, signer_state: Path, nursery: trio.Nursery
) -> None:
    who = both.enrol("a")
    oracle = await listening_oracle(both, nursery)
    async with connected(oracle.address, context(who.certificate)) as client:
        assert isinstance(await client.hello(who.token), Welcome)
        assert await signed(client, 1, keys)
        _, text = await scrape(both.directory / "metrics.sock")
    found = values(text)
    log = signer_state / "audit"
    assert found["blind_oracle_audit_log_writable"] == 1
    assert found["blind_oracle_audit_log_sequence"] == records_in(log)[-1]["sequence"]
    assert found["blind_oracle_audit_log_bytes"] == sum(file.stat().st_size for file in log.iterdir())
    assert abs(found["blind_oracle_audit_checkpoint_timestamp_seconds"] - time.time()) < SECONDS
    assert found["blind_oracle_signer_stage_seconds_count[sign]"] == 1
    assert found["blind_oracle_signer_stage_seconds_count[audit]"] >= 1
    oracle.stop()


async def test_a_reload_while_the_signer_starts_neither_ends_it_nor_is_lost(
    signer_state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    child = SignerProcess(signer_state / "signer.yaml", lambda: None)
    link = SignerLink(signer_state / "signer.sock", lambda _: child.note_well())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.run)
        nursery.start_soon(link.run)
        await until(lambda: "signer started" in caplog.text)
        child.reload()
        await until(lambda: "keys_reloaded" in [one["operation"] for one in records_in(signer_state / "audit")])
        nursery.cancel_scope.cancel()
    assert "signer ended" not in caplog.text


async def test_a_signer_that_refuses_its_configuration_stops_the_start(both: World, signer_state: Path) -> None:
    (signer_state / "keys.yaml").write_text("keys: {nonsense: 1}\n")
    oracle = Oracle(load(both.directory / "oracle.yaml", OracleConfig))
    with trio.fail_after(SECONDS):
        with pytest.raises(ConfigError, match="the signer does not start"):
            await oracle.run()
    assert not (both.directory / "oracle.address").exists()
