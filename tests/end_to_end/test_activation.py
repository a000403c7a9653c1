"""All three daemons get their sockets as from systemd, and start when somebody wants them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agentproxy.admin.dev.ports import free_ports
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, System, system_with, until

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def activated(system: System, listen: str, name: str, *words: str) -> Iterator[Path]:
    """systemd-socket-activate, which becomes `words` at the first connection; gives its log."""
    log = system.directory / f"{name}-activation.log"
    command = ["systemd-socket-activate", f"-EPYTHONPATH={ROOT}", f"-EHOME={system.directory}", "-l", listen]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, f"--fdname={name}", sys.executable, "-m", *words], stderr=errors, stdin=subprocess.DEVNULL
        )
    try:
        until(lambda: b"Listening on" in log.read_bytes(), "it listens")
        yield log
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(name="stopped")
def stopped_system(offline: Offline) -> Iterator[System]:
    """A system that ran once, so that the relay knows the oracle's port; now each daemon waits for its sockets."""
    with system_with({"modern": offline.exports["modern"]}) as system:
        system.stop()
        with (system.directory / "oracle.yaml").open("r+") as file:
            text = file.read()
            file.seek(0)
            file.write(text.replace("\nsigner:\n", "\nsigner:\n  start: false\n"))
        yield system


def test_a_signature_starts_relay_oracle_and_signer(offline: Offline, stopped: System) -> None:
    directory = stopped.directory
    address = (directory / "run" / "oracle.address").read_text().strip()
    signer = directory / "run" / "signer.sock"
    relay = ("relay.cli", "serve", "--config", str(directory / "relay" / "relay.yaml"))
    with ExitStack() as stack:
        for listen, name, words in (
            (str(signer), "signer", ("agentproxy.signer", "--config", str(directory / "signer" / "signer.yaml"))),
            (address, "relay", ("agentproxy.admin", "serve", "--config", str(directory / "oracle.yaml"))),
            (str(stopped.socket), "gpg", relay),
        ):
            if listen.startswith("/"):
                Path(listen).unlink(missing_ok=True)
            stack.enter_context(activated(stopped, listen, name, *words))
        signed: list[str] = []

        def sign() -> bool:
            # Three programs start for the first one, which on a busy machine may take longer than its deadline.
            done = stopped.sign()
            signed.extend([done.stdout] if done.returncode == 0 else [])
            return bool(signed)

        until(sign, "a signature")
        assert stopped.is_good(signed[0], offline.fingerprints["modern"])


@pytest.mark.parametrize(
    ("listen", "name", "words"),
    [
        ("127.0.0.1:0", "blind-oracle.socket", "'blind-oracle.socket', expected http"),
        ("{directory}/run/other.sock", "relay", "expected a TCP socket"),
    ],
)
def test_a_socket_that_the_oracle_cannot_use_stops_its_start(
    stopped: System, listen: str, name: str, words: str
) -> None:
    listen = listen.format(directory=stopped.directory).replace(":0", f":{free_ports(1)[0]}")
    command = ("agentproxy.admin", "serve", "--config", str(stopped.directory / "oracle.yaml"))
    with activated(stopped, listen, name, *command) as log:
        target = f"UNIX-CONNECT:{listen}" if listen.startswith("/") else f"TCP:{listen}"
        subprocess.run(["socat", "-u", target, "-"], check=False, capture_output=True, timeout=SECONDS)
        until(lambda: words in log.read_text(), "the oracle says why")
