"""`blind-oracle reload`, with everything real: new policy and keys, whole or not at all, down to what gpg shows."""

import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentproxy.admin.layout import Layout
from tests.admin.exports import PASSPHRASE, Exports
from tests.admin.shell import Result, blind_oracle
from tests.admin.test_dev import System

SECONDS = 30
SIGN = (
    "echo text > file; gpg --batch --yes --local-user {0}@example.org --detach-sign file && gpg --verify file.sig file"
)


@pytest.fixture(name="system")
def running_system(exports: Exports) -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        system = System(Path(name))
        words = [f"--key={key}={exports.subkeys[key]}" for key in ("modern", "legacy")]
        result = system.dev("start", *words)
        assert result.status == 0, result.errors
        try:
            yield system
        finally:
            assert system.dev("stop").status == 0


def layout(system: System) -> Layout:
    return Layout(system.directory)


def reload(system: System) -> None:
    result = run(system, "reload")
    assert result.status == 0, result.errors
    assert result.output == f"told the oracle, pid {system.pid('oracle')}; its log says what it took\n"


def run(system: System, *words: str | Path) -> Result:
    return blind_oracle(*words, "--config", layout(system).oracle_config)


def gpg_shows(system: System, exports: Exports) -> set[str]:
    """The names of the keys that gpg on the build server takes for usable."""
    rows = system.shell("gpg --batch --with-colons -K").stdout.splitlines()
    usable = {rows[index + 1].split(":")[9] for index, row in enumerate(rows) if row.startswith("ssb:") and "+" in row}
    return {name for name, fingerprint in exports.fingerprints.items() if fingerprint in usable}


def log_of(system: System) -> str:
    return "".join(file.read_text() for file in (system.directory / "log").iterdir())


def until(condition: Callable[[], bool], system: System) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, log_of(system)
        time.sleep(0.05)  # a poll with a bound: the processes have no other way to tell us


def signs(system: System, name: str) -> subprocess.CompletedProcess[str]:
    return system.shell(SIGN.format(name))


def test_a_new_policy_reaches_gpg_at_once_and_a_broken_one_reaches_nobody(system: System, exports: Exports) -> None:
    assert gpg_shows(system, exports) == {"modern", "legacy"}
    policy = layout(system).policy
    good = policy.read_text()
    policy.write_text(good + "  dev: {keys: []}\n")
    reload(system)
    until(lambda: "policy not reloaded, the old one stays" in log_of(system), system)
    assert "the key dev stands twice" in log_of(system)
    assert gpg_shows(system, exports) == {"modern", "legacy"}
    assert signs(system, "legacy").returncode == 0

    less = good.replace("keys: [modern, legacy]", "keys: [modern]")
    assert less != good
    policy.write_text(less)
    reload(system)
    until(lambda: gpg_shows(system, exports) == {"modern"}, system)
    assert signs(system, "legacy").returncode != 0
    assert signs(system, "modern").returncode == 0

    policy.write_text(good)
    reload(system)
    until(lambda: gpg_shows(system, exports) == {"modern", "legacy"}, system)


def test_a_protected_key_is_taken_without_a_restart_and_opened_after_one(system: System, exports: Exports) -> None:
    passphrase = system.directory / "passphrase"
    passphrase.write_text(f"{PASSPHRASE}\n")
    passphrase.chmod(0o600)
    words = ("--name", "locked", "--passphrase-file", passphrase, "--policy-add")
    assert run(system, "key", "import", exports.subkeys["locked"], *words).status == 0
    (file,) = (
        file
        for file in (layout(system).signer / "gnupg/private-keys-v1.d").iterdir()
        if b"openpgp-s2k3-ocb-aes" in file.read_bytes()
    )
    policy = layout(system).policy
    policy.write_text(policy.read_text().replace("keys: [modern, legacy]", "keys: [modern, legacy, locked]"))
    certificate = system.directory / "locked.asc"
    assert run(system, "key", "export", "locked", "--output", certificate).status == 0
    assert system.shell(f"gpg --batch --import {shlex.quote(str(certificate))}").returncode == 0
    assert "locked" not in gpg_shows(system, exports)

    reload(system)
    until(lambda: "locked" in gpg_shows(system, exports), system)
    done = signs(system, "locked")
    assert done.returncode == 0, done.stderr
    assert "the signer serves no such key" not in log_of(system)
    passphrase.unlink()
    assert system.dev("stop").status == 0
    assert system.dev("start").status == 0
    assert signs(system, "locked").returncode == 0
    assert b"openpgp-s2k3-ocb-aes" in file.read_bytes()
    assert PASSPHRASE not in log_of(system)


def test_a_broken_keys_file_changes_nothing(system: System, exports: Exports) -> None:
    keys = layout(system).signer / "keys.yaml"
    text = keys.read_text()
    keys.write_text(text.replace("usage:\n    - sign", "usage:\n    - sign\n    - certify", 1))
    assert keys.read_text() != text
    reload(system)
    until(lambda: "keys not reloaded, the old ones stay" in log_of(system), system)
    assert "keys.modern.usage: the key can certify" in log_of(system)
    for name in ("modern", "legacy"):
        assert signs(system, name).returncode == 0
    assert system.status()["signer"]


def test_without_an_oracle_there_is_nobody_to_tell(system: System) -> None:
    assert system.dev("stop", "oracle").status == 0
    lock = layout(system).run / "oracle.lock"
    assert lock.read_text().strip().isdigit()  # it stays, with the pid of somebody who is gone
    result = run(system, "reload")
    assert result.status == 1
    assert f"{lock}: no oracle runs here" in result.errors
