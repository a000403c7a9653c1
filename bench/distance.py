"""What a signature costs far away from its key: by a relay, and by gpg-agent's socket forwarded by ssh.

Both ways lead through a proxy that delays every byte, so nothing but the number of round trips makes the difference.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentproxy.admin.dev.ports import free_ports
from bench.sides import RELAY, Ours, Reference

__all__ = ["DELAYS", "Distant", "by_relay", "by_ssh"]

DELAYS = (0, 20, 100)  # milliseconds of a round trip; the first is what the others are held against
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.05
_SSHD = Path("/usr/sbin/sshd")


@dataclass(frozen=True, slots=True)
class Distant:
    """GnuPG homes whose agent is as far away as the name of each says."""

    homes: dict[int, Path]
    fingerprint: str

    def sign_seconds(self, delay: int) -> float:
        """The time of one `gpg --detach-sign`, from its start to its end."""
        command = ["gpg", "--homedir", self.homes[delay], "--batch", "--quiet", "--no-tty", "--no-autostart"]
        sign = [*command, "-u", f"{self.fingerprint}!", "--detach-sign", "--output", "-"]
        start = time.perf_counter()
        subprocess.run(sign, input=b"package", check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    def round_trips(self, delay: int, count: int) -> float:
        """How many round trips more than without a delay, from `count` of each in turns.

        It is the shortest of each that count: what disturbs a machine only ever adds.
        """
        near, far = [], []
        for _ in range(count):
            near.append(self.sign_seconds(DELAYS[0]))
            far.append(self.sign_seconds(delay))
        return (min(far) - min(near)) / (delay / 1000)


@contextmanager
def _proxies(target: str) -> Iterator[list[int]]:
    command = [sys.executable, "-m", "bench.delayproxy", target, *map(str, DELAYS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            ports: list[int] = json.loads(process.stdout.readline())
            yield ports
        finally:
            process.stdin.close()


def _wait(is_there: Sequence[str | Path], what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while subprocess.run(is_there, check=False, capture_output=True).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {_START_SECONDS:.0f} s: {what}")
        time.sleep(_LOOK_SECONDS)


@contextmanager
def by_relay(ours: Ours, directory: Path, key: str) -> Iterator[Distant]:
    """Relays of one runner, each at another distance from the oracle."""
    enrolled = ours.runner("distant")
    text = enrolled.read_text()
    address = ours.access().address
    homes: dict[int, Path] = {}
    relays: list[subprocess.Popen[bytes]] = []
    with _proxies(address) as ports:
        try:
            for delay, port in zip(DELAYS, ports, strict=True):
                place = directory / f"relay-{delay}"
                shutil.copytree(enrolled.parent, place, symlinks=True)
                config = place / enrolled.name
                config.write_text(text.replace(address, f"127.0.0.1:{port}"))
                relays.append(subprocess.Popen([RELAY, "serve", "--config", config], stderr=subprocess.DEVNULL))
                _wait([RELAY, "status", "--config", config], "the relay finds the oracle")
                homes[delay] = place / "gnupg"
                set_up = [RELAY, "setup", "--config", config, "--home", homes[delay]]
                subprocess.run(set_up, check=True, stdout=subprocess.DEVNULL)
            yield Distant(homes, ours.keys[key].fingerprint)
        finally:
            for relay in relays:
                relay.terminate()
                relay.wait()


@contextmanager
def by_ssh(reference: Reference, directory: Path, key: str) -> Iterator[Distant]:
    """A real gpg-agent whose socket for other hosts ssh forwards, at the same distances."""
    directory.mkdir(mode=0o700)
    with _sshd(directory) as port, _proxies(f"127.0.0.1:{port}") as ports:
        clients: list[subprocess.Popen[bytes]] = []
        homes: dict[int, Path] = {}
        try:
            for delay, near in zip(DELAYS, ports, strict=True):
                homes[delay] = directory / str(delay)
                forwarded = directory / f"{delay}.sock"
                clients.append(_forward(directory, near, forwarded, _agent_socket(reference.home, "extra")))
                _wait(["test", "-S", forwarded], "ssh forwards the agent's socket")
                _make_home(homes[delay], reference.home, forwarded)
            yield Distant(homes, reference.keys[key].fingerprint)
        finally:
            for client in clients:
                client.terminate()
                client.wait()


def _agent_socket(home: Path, kind: str) -> Path:
    name = "agent-extra-socket" if kind == "extra" else "agent-socket"
    command = ["gpgconf", "--homedir", home, "--list-dirs", name]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def _make_home(home: Path, other: Path, socket: Path) -> None:
    """A home with public keys only, whose agent is elsewhere."""
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--batch", "--quiet", "--no-autostart", "--homedir"]
    exported = subprocess.run([*gpg, other, "--export"], check=True, capture_output=True).stdout
    subprocess.run([*gpg, home, "--import"], input=exported, check=True, capture_output=True)
    _agent_socket(home, "plain").write_text(f"%Assuan%\nsocket={socket}\n")


def _forward(directory: Path, port: int, near: Path, far: Path) -> subprocess.Popen[bytes]:
    options = {
        "IdentityFile": directory / "client",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": directory / "known_hosts",
        "StrictHostKeyChecking": "no",
        "ExitOnForwardFailure": "yes",
        "LogLevel": "ERROR",
    }
    words = [f"-o{name}={value}" for name, value in options.items()]
    command = ["ssh", "-F", "none", "-N", *words, "-p", str(port), "-L", f"{near}:{far}", "127.0.0.1"]
    return subprocess.Popen(command)


@contextmanager
def _sshd(directory: Path) -> Iterator[int]:
    """An sshd of our own that lets us forward sockets."""
    for name in ("host", "client"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name]
        subprocess.run(command, check=True)
    shutil.copy(directory / "client.pub", directory / "authorized_keys")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as root it wants an empty directory to lock its network part into
    (port,) = free_ports(1)
    config = directory / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {directory}/host\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nAllowStreamLocalForwarding yes\n"
    )
    with subprocess.Popen([_SSHD, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL) as process:
        try:
            _wait(["ssh-keyscan", "-p", str(port), "127.0.0.1"], "sshd listens")
            yield port
        finally:
            process.terminate()
