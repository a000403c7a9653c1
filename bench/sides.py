"""The two sides of every comparison, with the same keys: a local gpg-agent, and a relay with its oracle."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentproxy.admin.layout import Layout
from bench.agent_load import Target
from bench.framed_load import Access
from relay.config import load_config

__all__ = ["CLIENT", "KEYS", "ORACLE", "RELAY", "Key", "Ours", "Reference", "environment_of", "ours", "reference"]

KEYS = {"rsa4096": "rsa4096", "rsa3072": "rsa3072", "ed25519": "ed25519"}  # name here: gpg's name
ORACLE = Path(sys.executable).with_name("blind-oracle")
RELAY = Path(sys.executable).with_name("blind-oracle-relay")
CLIENT = Path(sys.executable).with_name("blind-oracle-sign")


@dataclass(frozen=True, slots=True)
class Key:
    """A signing subkey that both sides have."""

    fingerprint: str
    keygrip: str
    exported: Path


@dataclass(frozen=True, slots=True)
class Reference:
    """A gpg-agent with unprotected keys, its fastest case."""

    home: Path
    socket: Path
    keys: dict[str, Key]

    def target(self, key: str) -> Target:
        return Target(self.socket, self.keys[key].keygrip)


@dataclass(frozen=True, slots=True)
class Ours:
    """What `blind-oracle dev` started."""

    environment: dict[str, str]
    pids: dict[str, int]
    directory: Path
    keys: dict[str, Key]

    def target(self, key: str) -> Target:
        return Target(Path(self.environment["BLIND_ORACLE_RELAY_SOCKET"]), self.keys[key].keygrip)

    def access(self) -> Access:
        """How the enrolled runner reaches the oracle's own port."""
        return _access(Path(self.environment["BLIND_ORACLE_RELAY_CONFIG"]))

    @property
    def tls(self) -> Path:
        """Where the oracle's TLS credentials are, and its authority's certificate."""
        return Layout(self.directory).tls

    def second_runner(self) -> Access:
        """Another runner than the one that `dev` enrolled."""
        return _access(self.runner("second"))

    def http_runner(self, key: str) -> Access:
        """A runner that has one key only, as the HTTP API wants it when a request names no type."""
        return _access(self.runner("http", (key,)))

    def runner(self, runner: str, names: Sequence[str] = ()) -> Path:
        """Enrol another runner, for these keys, or all; its relay.yaml, in a directory of its own."""
        directory = self.directory / runner
        enrolment = self.directory / f"{runner}.enrolment"
        keys = [f"--key={name}" for name in names or self.keys]
        add = [ORACLE, "runner", "add", runner, "--policy-add", *keys, "--output", enrolment]
        subprocess.run(add, check=True, env=self.environment, stdout=subprocess.DEVNULL)
        os.kill(self.pids["oracle"], signal.SIGHUP)  # it takes the policy with the new runner
        config = directory / "relay.yaml"
        places = ["--state", directory / "state", "--socket", directory / "S.relay"]
        enrol = [RELAY, "enroll", "--config", config, *places, enrolment]
        subprocess.run(enrol, check=True, env=self.environment, stdout=subprocess.DEVNULL)
        return config

    def stop_relay(self) -> list[str]:
        """Stop the relay, and give the command that serves in its place."""
        subprocess.run([ORACLE, "dev", "stop", self.directory, "relay"], check=True, stdout=subprocess.DEVNULL)
        return [str(RELAY), "serve"]


def _access(relay_config: Path) -> Access:
    config = load_config(relay_config)
    first, token = config.oracles[0], config.token.read_text().strip()
    return Access(first.address, first.server_name, config.authority, config.certificate, config.key, token)


def _gpg(home: Path, *arguments: str) -> str:
    command = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _make_key(home: Path, name: str) -> Key:
    """A certify-only primary with one signing subkey; only the subkey's secret part is exported."""
    _gpg(home, "--quick-gen-key", f"{name} <{name}@bench.invalid>", KEYS[name], "cert", "never")
    listing = _gpg(home, "--list-keys", "--with-colons", f"{name}@bench.invalid")
    primary = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
    _gpg(home, "--quick-add-key", primary, KEYS[name], "sign", "never")
    listing = _gpg(home, "--list-keys", "--with-colons", "--with-keygrip", primary)
    subkey = listing[listing.index("\nsub:") :].splitlines()
    fingerprint = next(line.split(":")[9] for line in subkey if line.startswith("fpr:"))
    keygrip = next(line.split(":")[9] for line in subkey if line.startswith("grp:"))
    exported = home / f"{name}.secret"
    _gpg(home, "--output", str(exported), "--export-secret-subkeys", f"{fingerprint}!")
    return Key(fingerprint, keygrip, exported)


@contextmanager
def reference(directory: Path) -> Iterator[Reference]:
    """Make the keys, and keep their gpg-agent running for the while."""
    directory.mkdir(mode=0o700)
    try:
        keys = {name: _make_key(directory, name) for name in KEYS}
        listing = subprocess.run(
            ["gpgconf", "--homedir", str(directory), "--list-dirs", "agent-socket"],
            check=True,
            capture_output=True,
            text=True,
        )
        yield Reference(directory, Path(listing.stdout.strip()), keys)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(directory), "--kill", "gpg-agent"], check=False)


def environment_of(directory: Path) -> dict[str, str]:
    """As after `eval "$(blind-oracle dev env DIRECTORY)"`."""
    printed = subprocess.run([ORACLE, "dev", "env", directory], check=True, capture_output=True, text=True).stdout
    values = dict(os.environ)
    for word in shlex.split(printed):
        name, equals, value = word.partition("=")
        if equals:
            values[name] = value.replace("$PATH", os.environ["PATH"])
    return values


@contextmanager
def ours(directory: Path, keys: dict[str, Key]) -> Iterator[Ours]:
    """Start oracle, signer and relay with the same keys, and stop them at the end."""
    options = [f"--key={name}={key.exported}" for name, key in keys.items()]
    subprocess.run([ORACLE, "dev", "start", directory, *options], check=True, stdout=subprocess.DEVNULL)
    try:
        status = subprocess.run(
            [ORACLE, "dev", "status", directory, "--json"], check=True, capture_output=True, text=True
        )
        pids = {name: part["pid"] for name, part in json.loads(status.stdout)["parts"].items()}
        yield Ours(environment_of(directory), pids, directory, keys)
    finally:
        subprocess.run([ORACLE, "dev", "stop", directory], check=True, stdout=subprocess.DEVNULL)
