"""Keys of all kinds, an oracle that serves them, and for each release two GnuPG homes that hold the same public keys.

In one home the relay answers gpg; in the other, for comparison, a real gpg-agent with the secret keys.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.release import RELEASES, Release
from tests.end_to_end.offline import Offline, offline_machine
from tests.end_to_end.packages import build_packages
from tests.end_to_end.place import System, system_with

__all__ = ["AGENT", "ALGORITHMS", "ENCRYPTS", "RELAY", "SIDES", "Key", "Workshop", "workshop"]

# As gpg names them, and as people do.
ALGORITHMS: Mapping[str, str] = {
    "rsa2048": "RSA-2048",
    "rsa3072": "RSA-3072",
    "rsa4096": "RSA-4096",
    "dsa2048": "DSA-2048",
    "ed25519": "Ed25519",
    "nistp256": "P-256",
    "nistp384": "P-384",
    "nistp521": "P-521",
}
ENCRYPTS = "rsa2048"  # its certificate has a subkey to encrypt to, too
AGENT, RELAY = "agent", "relay"
SIDES = (AGENT, RELAY)


@dataclass(frozen=True, slots=True)
class Key:
    """A certificate with a primary key that only certifies, and the subkey that signs."""

    name: str  # the algorithm
    primary: str
    subkey: str

    @property
    def address(self) -> str:
        return f"{self.name}@example.org"


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything that a tool needs."""

    directory: Path
    offline: Offline
    system: System
    certificates: Path  # all of them, binary
    package: Path  # an RPM that nobody has signed

    def key(self, algorithm: str) -> Key:
        return Key(algorithm, self.offline.primaries[algorithm], self.offline.fingerprints[algorithm])

    def home(self, release: Release, side: str) -> Path:
        return self.directory / release.name.replace(" ", "-").lower() / side

    def place(self, *names: str) -> Path:
        """A directory to work in."""
        directory = self.directory.joinpath("work", *names)
        directory.mkdir(parents=True)
        return directory


@contextmanager
def workshop() -> Iterator[Workshop]:
    with offline_machine() as offline, tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as name:
        for algorithm in ALGORITHMS:
            offline.make(algorithm, algorithm, *(["encr"] if algorithm == ENCRYPTS else []))
        with system_with({algorithm: offline.exports[algorithm] for algorithm in ALGORITHMS}) as system:
            (package,) = build_packages(Path(name), ["hello"])
            shop = Workshop(Path(name), offline, system, Path(name) / "certificates.gpg", package)
            shop.certificates.write_bytes(offline.gpg("--export"))
            try:
                for release in RELEASES:
                    _make_homes(shop, release)
                yield shop
            finally:
                for release in RELEASES:
                    _forget_homes(shop, release)


def _make_homes(shop: Workshop, release: Release) -> None:
    relay, agent = shop.home(release, RELAY), shop.home(release, AGENT)
    done = shop.system.run("blind-oracle-relay", "setup", "--home", relay)
    assert done.returncode == 0, done.stderr
    agent.mkdir(mode=0o700)
    # What `setup` writes, too: nobody is to see a difference because of it.
    (agent / "gpg.conf").write_text("no-permission-warning\n")
    _import(shop, release, relay, shop.certificates)
    exports = shop.directory / "exports"
    exports.write_bytes(b"".join(file.read_bytes() for file in shop.offline.exports.values()))
    for file in (shop.certificates, exports):
        _import(shop, release, agent, file)


def _import(shop: Workshop, release: Release, home: Path, file: Path) -> None:
    done = release.run("gpg", "--batch", "--import", file, home=home, at=shop.directory)
    assert done.returncode == 0, done.stderr


def _forget_homes(shop: Workshop, release: Release) -> None:
    for side in SIDES:
        home = shop.home(release, side)
        if home.is_dir():
            for what in (("--kill", "all"), ("--remove-socketdir",)):
                release.run("gpgconf", *what, home=home, at=shop.directory)
            shutil.rmtree(home, ignore_errors=True)  # an agent that ends removes its sockets meanwhile
