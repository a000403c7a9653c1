"""The offline machine: certify-only primary keys, their signing subkeys, and what a release engineer exports."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.end_to_end.place import forget_home

__all__ = ["Offline", "offline_machine"]

_SECONDS = 120  # a DSA key takes some seconds, on a busy machine many more


@dataclass(frozen=True, slots=True)
class Offline:
    """A GnuPG home with the secrets that never leave it, and exports of the subkeys that do."""

    home: Path
    exports: dict[str, Path] = field(default_factory=dict)  # name: exported secret subkey
    fingerprints: dict[str, str] = field(default_factory=dict)  # of the subkeys
    primaries: dict[str, str] = field(default_factory=dict)
    keygrips: dict[str, str] = field(default_factory=dict)  # of the subkeys

    def make(self, name: str, algorithm: str, *also: str, passphrase: str = "") -> None:
        """A primary key that certifies, with two user IDs, and a subkey that signs; `also`: usages of more subkeys.

        Once for each name: where tests are shared out among workers, a module's fixtures may be made more than once.
        """
        if name in self.exports:
            return
        user = f"{name}@example.org"
        self.gpg("--quick-gen-key", f"{name} <{user}>", "rsa2048", "cert", "1y", passphrase=passphrase)
        primary = self.primaries[name] = self.column(user, "fpr")[0]
        signing = f"{algorithm}/ecdsa" if algorithm.startswith("nistp") else algorithm  # else gpg would make it ECDH
        self.gpg("--quick-add-key", primary, signing, "sign", "1y", passphrase=passphrase)
        self.gpg("--quick-add-uid", primary, f"{name} of before <{name}@old.example.org>", passphrase=passphrase)
        self.gpg("--quick-set-primary-uid", primary, f"{name} <{user}>", passphrase=passphrase)
        for usage in also:
            self.gpg("--quick-add-key", primary, "rsa2048", usage, "1y", passphrase=passphrase)
        subkey = self.fingerprints[name] = self.column(user, "fpr")[1]
        self.keygrips[name] = self.column(user, "grp")[1]
        self.exports[name] = self.home / f"{name}.secret"
        exported = self.gpg("--export-secret-subkeys", f"{subkey}!", passphrase=passphrase)
        self.exports[name].write_bytes(exported)

    def column(self, user: str, kind: str) -> list[str]:
        rows = self.gpg("--with-colons", "--with-keygrip", "--list-keys", user).decode().splitlines()
        return [row.split(":")[9] for row in rows if row.startswith(f"{kind}:")]

    @property
    def agent_socket(self) -> Path:
        words = ["gpgconf", "--homedir", str(self.home), "--list-dirs", "agent-socket"]
        return Path(subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout.strip())

    def public(self, name: str) -> bytes:
        return self.gpg("--armor", "--export", self.primaries[name])

    def gpg(self, *words: str, passphrase: str = "") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
        done = subprocess.run(
            [*command, "--passphrase", passphrase, *words], check=True, capture_output=True, timeout=_SECONDS
        )
        return done.stdout


@contextmanager
def offline_machine() -> Iterator[Offline]:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as name:
        home = Path(name) / "offline"
        home.mkdir(mode=0o700)
        (home / "gpg-agent.conf").write_text("allow-loopback-pinentry\ns2k-count 65536\n")
        try:
            yield Offline(home)
        finally:
            forget_home(home)
