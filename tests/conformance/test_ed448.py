"""Ed448: GnuPG 2.4 makes such keys in a form of its own (version 5), which neither gpg 2.2 nor Sequoia reads.

So the oracle's host must have gpg 2.4, too: here gpg of Debian 13 stands first in the PATH of a whole system.
"""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.release import SECONDS, TRIXIE
from tests.end_to_end.place import System, forget_home, system_with

pytestmark = pytest.mark.conformance

COMPLIANCE = "--compliance=gnupg"  # Debian's gpg refuses such keys without


@pytest.fixture(name="place", scope="module")
def place_with_newer_gpg() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        place = Path(name)
        for program in ("gpg", "gpgconf", "gpg-connect-agent"):
            (place / program).write_text(
                f'#!/bin/sh\ncd /tmp && exec {shlex.join(TRIXIE.command(f"/usr/bin/{program}"))} "$@"\n'
            )
            (place / program).chmod(0o755)
        try:
            yield place
        finally:
            forget_home(place / "offline")


@pytest.fixture(name="exported", scope="module")
def exported_subkey(place: Path) -> tuple[Path, str]:
    """A subkey that signs, as a release engineer exports it, and its fingerprint."""
    home = place / "offline"
    home.mkdir(mode=0o700)

    def gpg(*words: str, tries: int = 1) -> bytes:
        command = ["gpg", "--homedir", str(home), "--batch", "--quiet", COMPLIANCE, "--pinentry-mode", "loopback"]
        command = TRIXIE.command(*command, "--passphrase", "", *words)
        for _ in range(tries):
            done = subprocess.run(command, check=False, capture_output=True, timeout=SECONDS, cwd=place)
            if done.returncode == 0:
                return done.stdout
        raise AssertionError(done.stderr)

    def fingerprints() -> list[str]:
        rows = gpg("--with-colons", "--with-subkey-fingerprint", "--list-keys").decode().splitlines()
        return [row.split(":")[9] for row in rows if row.startswith("fpr:")]

    gpg("--quick-gen-key", "ed448 <ed448@example.org>", "rsa2048", "cert", "1y")
    # gpg 2.4.7 loses one new Ed448 key in about 70 ("No secret key", seen 3 times in 218); none of 1956 signatures.
    gpg("--quick-add-key", fingerprints()[0], "ed448", "sign", "1y", tries=5)
    subkey = fingerprints()[1]
    (place / "ed448.secret").write_bytes(gpg("--export-secret-subkeys", f"{subkey}!"))
    return place / "ed448.secret", subkey


@pytest.fixture(name="system", scope="module")
def system_with_newer_gpg(place: Path, exported: tuple[Path, str]) -> Iterator[System]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        with system_with({"ed448": exported[0]}) as system:
            assert system.environment  # made here, with this PATH
            yield system


def test_gpg_2_4_signs_with_an_ed448_key_that_an_oracle_with_gpg_2_4_serves(
    system: System, place: Path, exported: tuple[Path, str]
) -> None:
    home = place / "home"
    done = system.run("blind-oracle-relay", "setup", "--home", home)
    assert done.returncode == 0, done.stderr
    sign = ("gpg", "--batch", COMPLIANCE, "--local-user", "ed448@example.org", "--armor", "--detach-sign")
    signed = TRIXIE.run(*sign, home=home, at=place, text="some text")
    assert (signed.returncode, signed.stderr) == (0, "")
    (place / "sig").write_text(signed.stdout)
    checked = TRIXIE.run(
        "gpg", "--batch", "--status-fd", "1", "--verify", "sig", "-", home=home, at=place, text="some text"
    )
    assert f"VALIDSIG {exported[1]} " in checked.stdout
    assert system.signed()[-1]["key"] == "ed448"
