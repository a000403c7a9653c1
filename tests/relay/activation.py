"""A relay process that gets its sockets as from systemd, by systemd's own `systemd-socket-activate`."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import trio

from tests.relay.conftest import Runner

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60.0  # no step takes so long, also on a busy machine

# As systemd does: the sockets stay, whoever ends. Each relay is told that they are for it, whatever its pid.
KEEPER = """
while [ ! -e "$1/enough" ]; do
    sh -c 'echo $$ >"$0/pid.new" && mv "$0/pid.new" "$0/pid"; LISTEN_PID=$$ exec "$@"' "$@"
    echo $? >>"$1/ends"
done
"""


def write_config(runner: Runner, **changes: object) -> Path:
    """relay.yaml as the runner's configuration is now; JSON is YAML."""
    plain = {name: value for name, value in asdict(runner.config).items() if value is not None} | changes
    file = runner.directory / "relay.yaml"
    file.write_text(json.dumps(plain, default=str))
    return file


def activated(runner: Runner, config: Path, before: Sequence[str], names: str) -> list[str]:
    """The command that listens at all of the runner's sockets and, at the first connection, becomes the relay."""
    listen = [word for one in runner.config.sockets for word in ("-l", str(one.path))]
    relay = [sys.executable, "-m", "relay.cli", "serve", "--config", str(config)]
    return ["systemd-socket-activate", "-E", f"PYTHONPATH={ROOT}", *listen, f"--fdname={names}", *before, *relay]


async def until(fact: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    with trio.fail_after(SECONDS):
        while True:
            if fact():
                return
            await trio.sleep(0.01)


@asynccontextmanager
async def activation(
    runner: Runner, config: Path, *before: str, names: str = ""
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """systemd-socket-activate, which is the relay after the first connection; ended at the end of the block."""
    log = runner.directory / "log"
    with log.open("ab") as errors:
        names = names or ":".join(one.name for one in runner.config.sockets)
        command = activated(runner, config, before, names)
        process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, stderr=errors)
    try:
        await until(lambda: all(one.path.is_socket() for one in runner.config.sockets))
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


async def relay_pid(directory: Path, other_than: int = 0) -> int:
    """The process that the keeper has started last."""
    file = directory / "pid"
    await until(lambda: file.exists() and int(file.read_text()) != other_than)
    return int(file.read_text())


def ends(directory: Path) -> list[int]:
    """How the relays that the keeper started have ended."""
    file = directory / "ends"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []
