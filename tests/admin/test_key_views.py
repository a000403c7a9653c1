"""`blind-oracle key list`, `show`, `export` and `for`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentproxy.admin.layout import Layout
from tests.admin.exports import Exports
from tests.admin.shell import Result, blind_oracle


@pytest.fixture
def state(short: Path, exports: Exports) -> Layout:
    """An oracle with two subkeys and one primary key, for two runners; no signer runs."""
    layout = Layout(short / "s")
    assert blind_oracle("init", layout.root).status == 0
    for name in ("modern", "legacy"):
        result = run(layout, "key", "import", exports.subkeys[name], "--name", name, "--policy-add")
        assert result.status == 0, result.errors
    result = run(layout, "key", "import", exports.subkeys["certifying"], "--name", "primary", "--seal-only")
    assert result.status == 0, result.errors
    text = layout.policy.read_text()
    text = text.replace('type: "legacy"', 'type: "legacy"\n    distributions: [el7-*]')
    runners = "runners:\n  build-01: {keys: [modern, legacy]}\n  build-02: {keys: [modern]}\n"
    layout.policy.write_text(text.replace("runners: {}\n", runners))
    return layout


def run(state: Layout, *words: str | Path) -> Result:
    return blind_oracle(*words, environment={"BLIND_ORACLE_CONFIG": str(state.oracle_config)})


def test_the_list_shows_who_may_use_a_key_and_its_risks(state: Layout, exports: Exports) -> None:
    result = run(state, "key", "list")
    assert result.status == 0, result.errors
    head, modern, legacy, primary, *warnings = result.output.splitlines()
    assert head.split() == ["name", "fingerprint", "usage", "expires", "type", "distributions", "runners", "risks"]
    assert exports.fingerprints["modern"] in modern
    assert modern.split()[4:] == ["modern", "any", "build-01", "build-02"]
    assert legacy.split()[5:] == ["el7-*", "build-01"]
    assert "certify, sign (seal only)" in primary
    assert "not in the policy" in primary
    assert warnings == ["warning: key primary can certify; it is served for seal only"]


def test_machines_get_every_field(state: Layout, exports: Exports) -> None:
    modern, _, primary = json.loads(run(state, "key", "list", "--json").output)
    assert modern["fingerprint"] == exports.fingerprints["modern"]
    assert modern["primary"] == exports.primaries["modern"]
    assert modern["policy"] == {
        "name": "modern",
        "type": "modern",
        "distributions": [],
        "runners": ["build-01", "build-02"],
    }
    assert (modern["risks"], primary["seal_only"], len(primary["risks"])) == ([], True, 1)
    assert modern["expires"] is not None
    assert modern["has_key_file"] is True


def test_several_keys_are_shown_at_once(state: Layout, exports: Exports) -> None:
    result = run(state, "key", "show", "modern", "legacy")
    assert result.status == 0, result.errors
    for text in (*exports.fingerprints["modern"], exports.primaries["legacy"], "legacy@example.org", "sha512"):
        assert text in result.output
    assert run(state, "key", "show").status == 2
    gone = run(state, "key", "show", "gone")
    assert gone.status == 1
    assert "hint: known: modern, legacy, primary" in gone.errors


def test_a_wrong_policy_hides_only_what_the_policy_says(state: Layout) -> None:
    state.policy.write_text("keys: []\n")
    result = run(state, "key", "list")
    assert result.status == 0
    assert "warning: the policy is wrong, so who may use the keys is not known" in result.output


@pytest.mark.parametrize("to_file", [True, False])
def test_an_exported_certificate_is_what_gpg_reads(state: Layout, exports: Exports, short: Path, to_file: bool) -> None:
    words = ["--output", str(short / "out.asc")] if to_file else []
    result = run(state, "key", "export", "modern", *words)
    assert result.status == 0, result.errors
    text = (short / "out.asc").read_text() if to_file else result.output
    assert text.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n")
    shown = subprocess.run(
        ["gpg", "--homedir", exports.home, "--batch", "--with-colons", "--show-keys"],
        input=text.encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert f":{exports.fingerprints['modern']}:" in shown.stdout.decode()
    assert b"CRC error" not in shown.stderr


def test_an_armored_and_a_binary_export_are_the_same(state: Layout, exports: Exports, short: Path) -> None:
    assert run(state, "key", "export", "modern", "--binary", "--output", short / "out.pgp").status == 0
    result = run(state, "key", "export", "modern")
    dearmored = subprocess.run(
        ["gpg", "--homedir", exports.home, "--batch", "--dearmor"],
        input=result.output.encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert dearmored.stdout == (short / "out.pgp").read_bytes()
    again = run(state, "key", "export", "modern", "--output", short / "out.pgp")
    assert (again.status, "is there already" in again.errors) == (1, True)


@pytest.mark.parametrize(
    ("words", "error"),
    [(["gone"], "gone.pgp: No such file"), (["../server"], "NAME: expected 1 to 64 letters")],
)
def test_what_is_not_there_is_not_exported(state: Layout, words: list[str], error: str) -> None:
    result = run(state, "key", "export", *words)
    assert result.status == 1
    assert error in result.errors


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["el7-x86_64"], "legacy"),
        (["el10-x86_64"], "modern"),
        (["el7-x86_64", "--type", "modern"], "modern"),
        (["el7-x86_64", "--runner", "build-02"], "modern"),
    ],
)
def test_the_key_for_a_distribution_is_named(state: Layout, exports: Exports, words: list[str], expected: str) -> None:
    result = run(state, "key", "for", *words)
    assert (result.status, result.output, result.errors) == (0, f"{expected}\n", "")
    plain = json.loads(run(state, "key", "for", *words, "--json").output)
    assert plain == {"key": expected, "type": expected, "fingerprint": exports.fingerprints[expected]}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["el10-x86_64", "--type", "legacy"], "keys: none for el10-x86_64 of type legacy"),
        (["el10-x86_64", "--runner", "stranger"], "runners: no stranger"),
        (["el/10"], "DISTRIBUTION: expected 1 to 64 letters"),
    ],
)
def test_without_a_fitting_key_none_is_named(state: Layout, words: list[str], error: str) -> None:
    result = run(state, "key", "for", *words)
    assert (result.status, result.output) == (1, "")
    assert result.errors.startswith(f"blind-oracle: error: {error}")


def test_a_full_disk_behind_an_export_is_told_as_of_all_commands(state: Layout) -> None:
    environment = {**os.environ, "BLIND_ORACLE_CONFIG": str(state.oracle_config)}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "agentproxy.admin", "key", "export", "modern"]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60, env=environment
        )
    assert (done.returncode, done.stderr) == (1, "blind-oracle: error: standard output: No space left on device\n")
