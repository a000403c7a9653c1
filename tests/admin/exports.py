"""Keys as a release engineer exports them: certify-only primaries, each with one signing subkey."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PASSPHRASE", "Exports", "make_exports"]

PASSPHRASE = "correct horse"


@dataclass(frozen=True, slots=True)
class Exports:
    home: Path  # with the primary keys
    subkeys: dict[str, Path]  # name: exported secret subkey
    fingerprints: dict[str, str]  # of the subkeys
    primaries: dict[str, str]
    whole: Path  # an export with the primary's secret part

    def public(self, name: str) -> bytes:
        return _gpg(self.home, "--export", self.primaries[name])


def make_exports(home: Path) -> Exports:
    home.mkdir(mode=0o700)
    (home / "gpg-agent.conf").write_text("allow-loopback-pinentry\ns2k-count 65536\n")
    exports = Exports(home, {}, {}, {}, home / "whole.secret")
    for name in ("modern", "legacy"):
        _make(exports, name, "")
    _make(exports, "locked", PASSPHRASE)
    _make_certifying(exports, "certifying")
    exports.whole.write_bytes(_gpg(home, "--export-secret-keys", exports.primaries["modern"]))
    return exports


def _make(exports: Exports, name: str, passphrase: str) -> None:
    home, address = exports.home, f"{name}@example.org"
    _gpg(home, "--quick-gen-key", f"{name} <{address}>", "rsa2048", "cert", "never", passphrase=passphrase)
    exports.primaries[name] = _fingerprints(home, address)[0]
    _gpg(home, "--quick-add-key", exports.primaries[name], "rsa2048", "sign", "1y", passphrase=passphrase)
    exports.fingerprints[name] = _fingerprints(home, address)[1]
    exports.subkeys[name] = home / f"{name}.secret"
    exported = _gpg(home, "--export-secret-subkeys", f"{exports.fingerprints[name]}!", passphrase=passphrase)
    exports.subkeys[name].write_bytes(exported)


def _make_certifying(exports: Exports, name: str) -> None:
    """A key of the old kind: one that certifies and signs."""
    home, address = exports.home, f"{name}@example.org"
    _gpg(home, "--quick-gen-key", f"{name} <{address}>", "rsa2048", "cert,sign", "never")
    exports.primaries[name] = exports.fingerprints[name] = _fingerprints(home, address)[0]
    exports.subkeys[name] = home / f"{name}.secret"
    exports.subkeys[name].write_bytes(_gpg(home, "--export-secret-keys", exports.primaries[name]))


def _fingerprints(home: Path, user: str) -> list[str]:
    rows = _gpg(home, "--with-colons", "--list-keys", user).decode().splitlines()
    return [row.split(":")[9] for row in rows if row.startswith("fpr:")]


def _gpg(home: Path, *words: str, passphrase: str = "") -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
    return subprocess.run(
        [*command, "--passphrase", passphrase, *words], check=True, capture_output=True, timeout=120
    ).stdout
