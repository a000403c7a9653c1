"""Keys to try things with: certify-only primary keys that are forgotten at once, and their signing subkeys."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from agentproxy.admin.scratch import scratch_home
from agentproxy.protocol.errors import ConfigError

__all__ = ["ALGORITHMS", "fresh_subkey"]

# name: algorithm of the primary key and of the subkey that signs, as gpg calls them
ALGORITHMS: Mapping[str, tuple[str, str]] = {"modern": ("rsa3072", "rsa4096"), "legacy": ("rsa2048", "rsa2048")}
_SECONDS = 120  # an RSA-4096 key takes some seconds, on a slow and busy machine many more


def fresh_subkey(name: str) -> bytes:
    """Make a key and export its signing subkey only, as a release engineer does; valid for a year.

    Raises:
        ConfigError: gpg is not there, or makes none.
    """
    primary_algorithm, algorithm = ALGORITHMS[name]
    with scratch_home() as (home, _):
        user = f"{name} key of a dev system <{name}@dev.invalid>"
        _gpg(home, "--quick-gen-key", user, primary_algorithm, "cert", "1y")
        primary = _fingerprints(home)[0]
        _gpg(home, "--quick-add-key", primary, algorithm, "sign", "1y")
        subkey = _fingerprints(home)[1]
        return _gpg(home, "--export-secret-subkeys", f"{subkey}!")


def _fingerprints(home: Path) -> list[str]:
    rows = _gpg(home, "--with-colons", "--list-keys").decode("ascii", "replace").splitlines()
    return [row.split(":")[9] for row in rows if row.startswith("fpr:")]


def _gpg(home: Path, *words: str) -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback"]
    try:
        done = subprocess.run([*command, "--passphrase", "", *words], capture_output=True, check=True, timeout=_SECONDS)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise ConfigError(f"gpg {words[0]} failed: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"gpg {words[0]} took more than {_SECONDS} s") from error
    return done.stdout
