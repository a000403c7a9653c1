"""Real keys, made once by real gpg."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentproxy.protocol.keys import Keygrip

PASSPHRASE = "correct horse"
# Names of test keys, and what `gpg --quick-gen-key` calls the algorithm.
ALGORITHMS = {
    "rsa2048": "rsa2048",
    "rsa3072": "rsa3072",
    "dsa2048": "dsa2048",
    "ed25519": "ed25519",
    "p256": "nistp256",
    "p384": "nistp384",
    "p521": "nistp521",
}


@dataclass(frozen=True)
class GnupgHome:
    """A GnuPG home with its own agent, and the keygrips of the keys in it by our names."""

    path: Path
    grips: dict[str, Keygrip]
    fingerprints: dict[str, str]

    def gpg(self, *arguments: str, stdin: bytes = b"", passphrase: str = "") -> bytes:
        command = ["gpg", "--homedir", str(self.path), "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback"]
        command += ["--passphrase", passphrase, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=120).stdout

    def stop(self) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", str(self.path), "--kill", "gpg-agent"], check=True, timeout=30, capture_output=True
        )

    def remove(self) -> None:
        self.stop()
        # The agent removes its sockets while we do.
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def make(self, name: str, algorithm: str, passphrase: str = "", usage: str = "sign") -> None:
        self.gpg("--quick-gen-key", f"{name} <{name}@example.org>", algorithm, usage, "never", passphrase=passphrase)
        rows = self.gpg("--with-colons", "--with-keygrip", "--list-keys", f"={name} <{name}@example.org>").decode()
        fields = {row[:3]: row.split(":")[9] for row in reversed(rows.splitlines()) if row[:3] in {"grp", "fpr"}}
        self.grips[name] = Keygrip.parse(fields["grp"])
        self.fingerprints[name] = fields["fpr"]


def new_home(s2k_count: int | None = 65536) -> GnupgHome:
    # Not tmp_path: the agent's socket must fit into 107 octets.
    path = Path(tempfile.mkdtemp(prefix="bo", dir="/tmp"))
    lines = ["allow-loopback-pinentry", "allow-preset-passphrase", "max-cache-ttl 0", "default-cache-ttl 0"]
    if s2k_count:
        lines.append(f"s2k-count {s2k_count}")
    (path / "gpg-agent.conf").write_text("\n".join(lines) + "\n")
    return GnupgHome(path, {}, {})


@pytest.fixture(scope="session")
def home() -> Iterator[GnupgHome]:
    """Unprotected keys of every algorithm."""
    made = new_home()
    try:
        for name, algorithm in ALGORITHMS.items():
            made.make(name, algorithm)
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def locked_home() -> Iterator[GnupgHome]:
    """The same algorithms behind PASSPHRASE; few rounds of the passphrase's hash."""
    made = new_home()
    try:
        for name, algorithm in ALGORITHMS.items():
            if name != "rsa3072":
                made.make(name, algorithm, PASSPHRASE)
        yield made
    finally:
        made.remove()


@pytest.fixture
def empty_home() -> Iterator[GnupgHome]:
    made = new_home()
    try:
        yield made
    finally:
        made.remove()
