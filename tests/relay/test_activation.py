import os
import signal
import subprocess
from dataclasses import replace

import pytest
import trio

from relay.config import SocketConfig
from tests.relay.activation import KEEPER, SECONDS, activation, ends, relay_pid, until, write_config
from tests.relay.conftest import Runner


async def test_the_first_gpg_starts_the_relay_and_each_socket_is_known_by_its_name(runner: Runner) -> None:
    everyone = runner.config.sockets[0]
    el10 = SocketConfig(everyone.path.with_name("S.el10"), "el10", keys=("ed",), distribution="el10-x86_64")
    runner.config = replace(runner.config, sockets=(everyone, el10))
    async with runner.running_oracle(), activation(runner, write_config(runner)):
        assert runner.oracle.connections == 0
        assert (await runner.sign("rsa")).returncode == 0
        runner.redirect.write_text(f"%Assuan%\nsocket={el10.path}\n")
        assert (await runner.sign("ed")).returncode == 0
        assert b"No secret key" in (await runner.sign("rsa")).stderr
    assert [(one.socket, one.distribution) for one in runner.oracle.requests] == [
        ("gpg", None),
        ("el10", "el10-x86_64"),
    ]


async def test_a_relay_that_nobody_needs_ends_and_keeps_the_sockets(runner: Runner) -> None:
    async with runner.running_oracle():
        async with activation(runner, write_config(runner, exit_when_idle_seconds=1)) as process:
            assert (await runner.sign()).returncode == 0
            with trio.fail_after(SECONDS):
                assert await process.wait() == 0
    assert runner.socket.is_socket()


async def test_a_restart_under_load_loses_no_signature(runner: Runner) -> None:
    wanted, restarts = 30, 4
    signed: list[subprocess.CompletedProcess[bytes]] = []
    restarted = trio.Event()

    async def build() -> None:
        while len(signed) < wanted or not restarted.is_set():
            signed.append(await runner.sign("ed"))

    async def upgrade() -> None:
        pid = 0
        for _ in range(restarts):
            pid = await relay_pid(runner.directory, other_than=pid)
            enough = len(signed) + 3
            await until(lambda enough=enough: len(signed) >= enough)
            os.kill(pid, signal.SIGTERM)
        restarted.set()

    keeper = ("sh", "-c", KEEPER, "keeper", str(runner.directory))
    async with runner.running_oracle(), activation(runner, write_config(runner), *keeper) as process:
        with trio.fail_after(4 * SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(upgrade)
                for _ in range(3):
                    nursery.start_soon(build)
            (runner.directory / "enough").touch()
            os.kill(await relay_pid(runner.directory), signal.SIGTERM)
            await process.wait()
    assert [done.stderr for done in signed if done.returncode] == []
    assert len(signed) >= wanted
    assert ends(runner.directory) == [0] * (restarts + 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [("relay.socket", "expected control or gpg"), ("control", "systemd passed the socket")],
)
async def test_a_socket_unit_with_a_wrong_name_stops_the_start_with_the_reason(
    runner: Runner, name: str, words: str
) -> None:
    async with activation(runner, write_config(runner), names=name) as process:
        await runner.sign()
        with trio.fail_after(SECONDS):
            assert await process.wait() == 1
    assert words in (runner.directory / "log").read_text()
