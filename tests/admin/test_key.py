import os
import subprocess
from pathlib import Path

import pytest

from agentproxy.admin.layout import Layout, load_oracle, load_signer
from agentproxy.oracle.policy import Policy
from agentproxy.runtime.config import load
from agentproxy.signer.keysfile import load as load_keys
from tests.admin.exports import PASSPHRASE, Exports
from tests.admin.shell import Result, blind_oracle


@pytest.fixture(name="state")
def made_state(short: Path) -> Layout:
    assert blind_oracle("init", short / "s").status == 0
    return Layout(short / "s")


def key_import(state: Layout, *words: str | Path) -> Result:
    return blind_oracle("key", "import", *words, environment={"BLIND_ORACLE_CONFIG": str(state.oracle_config)})


def test_an_exported_subkey_is_served_after_one_command(state: Layout, exports: Exports) -> None:
    result = key_import(state, exports.subkeys["modern"], "--name", "modern", "--policy-add")
    assert result.status == 0, result.errors
    assert f"imported modern: {exports.fingerprints['modern']} (modern <modern@example.org>), expires" in result.output
    entry = load_keys(load_signer(load_oracle(state.oracle_config)).keys_file).keys["modern"]
    assert str(entry.fingerprint) == exports.fingerprints["modern"]
    assert (state.signer / "gnupg/private-keys-v1.d" / f"{entry.keygrip}.key").exists()
    assert (state.oracle / "certificates/modern.pgp").stat().st_size > 0
    rule = load(state.policy, Policy).keys["modern"]
    assert (str(rule.fingerprint), rule.type) == (exports.fingerprints["modern"], "modern")


def test_without_policy_add_the_lines_are_shown_and_the_policy_stays(state: Layout, exports: Exports) -> None:
    before = state.policy.read_text()
    result = key_import(state, exports.subkeys["legacy"], "--name", "legacy")
    assert result.status == 0, result.errors
    lines = f'keys:\n  legacy:\n    fingerprint: "{exports.fingerprints["legacy"]}"\n    type: "legacy"\n'
    assert lines in result.output
    assert state.policy.read_text() == before


def test_a_protected_key_keeps_its_passphrase_for_the_signer(state: Layout, exports: Exports, short: Path) -> None:
    (short / "passphrase").write_text(f"{PASSPHRASE}\n")
    (short / "passphrase").chmod(0o600)
    words = (exports.subkeys["locked"], "--name", "locked", "--passphrase-file", short / "passphrase")
    result = key_import(state, *words)
    assert result.status == 0, result.errors
    kept = state.signer / "passphrases/locked"
    assert kept.read_text() == f"{PASSPHRASE}\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert PASSPHRASE not in result.output + result.errors


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        ("wrong\n", 0o600, "and this passphrase"),
        (f"{PASSPHRASE}\n", 0o644, "others may read it (mode 0644), expected 0600"),
        ("", 0o600, "the passphrase is empty or more than one line"),
        ("a\nb\n", 0o600, "the passphrase is empty or more than one line"),
    ],
)
def test_a_bad_passphrase_file_changes_nothing(
    content: str, mode: int, expected: str, state: Layout, exports: Exports
) -> None:
    short = state.root.parent
    (short / "passphrase").write_text(content)
    (short / "passphrase").chmod(mode)
    words = (exports.subkeys["locked"], "--name", "locked", "--passphrase-file", short / "passphrase")
    result = key_import(state, *words)
    assert result.status == 1
    assert expected in result.errors
    assert list((state.signer / "gnupg/private-keys-v1.d").iterdir()) == []
    assert load_keys(state.signer / "keys.yaml").keys == {}


def contents(state: Layout) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in state.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("key", "name", "expected"),
    [
        ("modern", "locked", "locked is the name of key"),
        ("locked", "modern", "modern is the name of key"),
        ("locked", "other", "the key is there already as locked"),
        ("modern", "other", "the key is there already as modern"),
        ("legacy", "locked", "locked is the name of key"),
    ],
)
def test_a_refused_import_changes_nothing(key: str, name: str, expected: str, state: Layout, exports: Exports) -> None:
    short = state.root.parent
    (short / "passphrase").write_text(f"{PASSPHRASE}\n")
    (short / "passphrase").chmod(0o600)
    protected = ("--passphrase-file", short / "passphrase")
    assert key_import(state, exports.subkeys["modern"], "--name", "modern").status == 0
    assert key_import(state, exports.subkeys["locked"], "--name", "locked", *protected).status == 0
    before = contents(state)
    result = key_import(state, exports.subkeys[key], "--name", name, *protected if key == "locked" else ())
    assert result.status == 1
    assert expected in result.errors
    assert contents(state) == before


@pytest.mark.parametrize("obstacle", ["oracle/certificates/locked.pgp", "signer/passphrases/locked"])
def test_an_import_that_ended_between_two_files_is_finished_by_the_next(
    obstacle: str, state: Layout, exports: Exports, short: Path
) -> None:
    (short / "passphrase").write_text(f"{PASSPHRASE}\n")
    (short / "passphrase").chmod(0o600)
    words = (exports.subkeys["locked"], "--name", "locked", "--passphrase-file", short / "passphrase")
    (state.root / obstacle).mkdir()
    assert key_import(state, *words).status == 1
    assert load_keys(state.signer / "keys.yaml").keys == {}
    (state.root / obstacle).rmdir()
    assert key_import(state, *words).status == 0
    assert list(load_keys(state.signer / "keys.yaml").keys) == ["locked"]
    assert (state.signer / "passphrases/locked").read_text() == f"{PASSPHRASE}\n"


def test_a_key_that_can_certify_is_refused_unless_accepted(state: Layout, exports: Exports) -> None:
    result = key_import(state, exports.whole, "--name", "modern", "--fingerprint", exports.primaries["modern"])
    assert result.status == 1
    assert "blind-oracle: hint:" in result.errors


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--name", "a/b"], "key name: expected 1 to 64 letters"),
        (["--name", "x", "--type", '"x'], "--type: expected 1 to 64 letters"),
        (["--name", "x", "--type", ""], "--type: expected 1 to 64 letters"),
        (["--name", "x", "--fingerprint", "0E85"], "--fingerprint: a fingerprint has 40 or 64 hex digits"),
    ],
)
def test_wrong_values_are_refused(words: list[str], expected: str, state: Layout, exports: Exports) -> None:
    before = contents(state)
    result = key_import(state, exports.subkeys["modern"], *words)
    assert result.status == 1
    assert f"blind-oracle: error: {expected}" in result.errors
    assert contents(state) == before


@pytest.mark.timeout(60)
def test_an_export_comes_from_a_pipe_and_not_from_a_fifo_that_nobody_writes_to(state: Layout, exports: Exports) -> None:
    fifo = state.root.parent / "fifo"
    os.mkfifo(fifo)
    result = key_import(state, fifo, "--name", "modern")
    assert (result.status, f"{fifo}: expected a file" in result.errors) == (1, True)
    with subprocess.Popen(["cat", exports.subkeys["modern"]], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        result = key_import(state, f"/dev/fd/{cat.stdout.fileno()}", "--name", "modern")
    assert result.status == 0, result.errors


def test_a_missing_export_and_a_missing_configuration_are_named(state: Layout, short: Path) -> None:
    result = key_import(state, short / "gone", "--name", "modern")
    assert f"error: {short / 'gone'}: cannot be read: No such file" in result.errors
    result = blind_oracle("key", "import", short / "gone", "--name", "modern", "--config", short / "gone.yaml")
    assert "there is no configuration" in result.errors
    assert "hint: blind-oracle init DIR makes one" in result.errors
