"""What the relay costs its host, held against the bare trio program of the bench."""

from pathlib import Path

import trio

from bench.processes import private_kib
from bench.relay_cost import bare, connection_kib
from tests.relay.conftest import Runner
from tests.relay.test_commandline import command, enrolment, relay_process

CONNECTIONS = 300


async def test_memory_at_rest_and_per_connection_is_within_one_and_a_half_of_a_bare_program(runner: Runner) -> None:
    socket = runner.directory / "relay" / "run" / "S.gpg-agent"
    async with runner.running_oracle():
        await command(runner, "enroll", str(enrolment(runner)))
        async with relay_process(runner) as process:
            with trio.fail_after(20):
                while b"connected to" not in (await command(runner, "status")).stdout:
                    pass
            ours = private_kib(process.pid)
            ours_each = await trio.to_thread.run_sync(connection_kib, process.pid, socket, CONNECTIONS)
    theirs, theirs_each = await trio.to_thread.run_sync(_bare_cost, runner.directory / "bare.sock")

    print(f"at rest {ours} KiB to {theirs} KiB, each {ours_each:.1f} KiB to {theirs_each:.1f} KiB")
    assert ours <= 1.5 * theirs
    assert ours_each <= 1.5 * theirs_each


def _bare_cost(path: Path) -> tuple[int, float]:
    with bare(path) as pid:
        return private_kib(pid), connection_kib(pid, path, CONNECTIONS)
