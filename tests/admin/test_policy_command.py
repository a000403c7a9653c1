"""`blind-oracle policy check` and `policy explain`."""

import json
import os
from pathlib import Path

import pytest
import yaml

from agentproxy.admin.layout import Layout
from tests.admin.exports import Exports
from tests.admin.shell import Result, blind_oracle

FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"
KEYS = f"keys:\n  modern: {{fingerprint: {FINGERPRINT}, type: modern}}\n"
ALIASES = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nkeys: {}\nrunners: {}\n"


def check(file: Path, *words: str) -> Result:
    return blind_oracle("policy", "check", file, "--config", "/nonexistent/oracle.yaml", *words)


@pytest.mark.timeout(30)
def test_a_fifo_is_no_policy(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    result = check(tmp_path / "fifo")
    assert result.status == 1
    assert "expected a file" in result.output


def said(tmp_path: Path, text: str) -> tuple[int, list[str]]:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    result = check(file)
    assert result.errors == ""
    return result.status, [line.removeprefix(str(file)) for line in result.output.splitlines()]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("keys: {}\nkeys: {}\nrunners: {}\n", ":2: error: the key keys stands twice"),
        (KEYS + "runners:\n\tb: {keys: []}\n", r":4: error: found character '\t' that cannot start any token"),
        (KEYS + "runners:\n  no: {keys: []}\n", ":4: error: the key no is not read as a string: quote it"),
        (KEYS + "runners: {b: {keys: [no]}}\n", ":3: error: runners.b.keys[0]: expected a string, got bool"),
        (
            KEYS + "runners:\n  b:\n    keys: []\n    rates: 5\n",
            ":6: error: runners.b.rates: unknown key, did you mean rate?",
        ),
        (KEYS + "runners:\n  b: {keys: modern}\n", ":4: error: runners.b.keys: expected a list, got str"),
        (
            KEYS + "runners:\n  b:\n    keys: []\n    rate: '5'\n",
            ":6: error: runners.b.rate: expected an integer, got str",
        ),
        (KEYS + "runners:\n  b:\n    keys: [modern, legacy]\n", ":5: error: runners.b.keys[1]: expected a name from"),
        ("keys:\n  modern: {type: x}\nrunners: {}\n", ":2: error: keys.modern.fingerprint: missing"),
        ("keys: {a: {fingerprint: 0E85, type: x}}\nrunners: {}\n", ":1: error: keys.a.fingerprint: "),
        (ALIASES, ":2: error: aliases are not allowed"),
        ("[]\n", ": error: expected "),
        ("keys: {}\nrunners: {}\n" + "# ten megabytes\n" * 700_000, ": error: longer than 1048576 bytes"),
    ],
)
def test_a_fault_is_said_with_its_line_and_its_path(tmp_path: Path, text: str, first: str) -> None:
    status, lines = said(tmp_path, text)
    assert status == 1
    assert lines[0].startswith(first), lines
    assert lines[-1] == "1 error, 0 warnings"


def test_a_tab_comes_with_a_hint(tmp_path: Path) -> None:
    _, lines = said(tmp_path, KEYS + "runners:\n\tb: {keys: []}\n")
    assert "hint: indent with spaces" in lines


def test_what_is_no_readable_file_is_said(tmp_path: Path) -> None:
    assert f"{tmp_path}: error: cannot be read: Is a directory\n" in check(tmp_path).output
    assert f"{tmp_path}/gone: error: cannot be read: No such file" in check(tmp_path / "gone").output
    binary = tmp_path / "binary"
    binary.write_bytes(b"keys: \xff\n")
    assert f"{binary}: error: expected UTF-8, byte 6 is not\n" in check(binary).output
    assert check(tmp_path).status == check(tmp_path / "gone").status == check(binary).status == 1


def test_a_file_that_we_may_not_read_is_said(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.touch(0o000)
    assert check(tmp_path).status == 1  # all modules are imported now
    uid = os.geteuid()
    if uid == 0:  # who may read everything
        os.seteuid(65534)
    try:
        result = check(file)
    finally:
        os.seteuid(uid)
    assert result.status == 1
    assert f"{file}: error: cannot be read: Permission denied\n" in result.output


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    runners = "runners:\n  b:\n    keys: [x]\n    rate: 0\n    token_only: true\n    networks: [10.0.0.1/8]\n"
    status, lines = said(tmp_path, KEYS + runners)
    assert status == 1
    assert [line.split(": ")[:3] for line in lines[:4]] == [
        [":5", "error", "runners.b.keys[0]"],
        [":8", "error", "runners.b.networks[0]"],
        [":6", "error", "runners.b.rate"],
        [":7", "warning", "runners.b.token_only"],
    ]
    assert lines[-1] == "3 errors, 1 warning"


def test_warnings_alone_keep_the_status_good(tmp_path: Path) -> None:
    status, lines = said(tmp_path, KEYS + "runners:\n  b: {keys: [modern], token_only: true}\n")
    assert status == 0
    assert lines[-1] == "0 errors, 1 warning"
    assert "note: the signer's keys were not looked at: no configuration names a signer" in lines


def test_machines_get_the_same(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(KEYS + "runners:\n  b: {keys: [x]}\n")
    result = check(file, "--json")
    assert result.status == 1
    plain = json.loads(result.output)
    assert (plain["good"], plain["keys_from"]) == (False, None)
    (problem,) = plain["problems"]
    assert (problem["severity"], problem["path"], problem["line"]) == ("error", "runners.b.keys[0]", 4)


@pytest.fixture
def state(short: Path, exports: Exports) -> Layout:
    """An oracle with an RSA key for EL9 and one runner; no signer runs."""
    layout = Layout(short / "s")
    assert blind_oracle("init", layout.root).status == 0
    words = ("--name", "modern", "--config", layout.oracle_config)
    assert blind_oracle("key", "import", exports.subkeys["modern"], *words).status == 0
    layout.policy.write_text(
        f"keys:\n  modern:\n    fingerprint: {exports.fingerprints['modern']}\n    type: modern\n"
        "    distributions: [el9-*]\n  other:\n    fingerprint: " + FINGERPRINT + "\n    type: modern\n"
        "runners:\n  build-01:\n    keys: [modern, other]\n    rate: 20\n"
    )
    return layout


def explain(state: Layout, *words: str) -> Result:
    return blind_oracle("policy", "explain", *words, "--config", state.oracle_config)


def test_the_signers_keys_are_looked_at_also_while_it_does_not_run(state: Layout) -> None:
    result = blind_oracle("policy", "check", "--config", state.oracle_config)
    assert result.status == 0, result.output
    assert f"{state.policy}:7: warning: keys.other.fingerprint: the signer serves no such key\n" in result.output
    assert "note:" not in result.output


def test_an_explanation_names_the_line_that_allows(state: Layout) -> None:
    result = explain(state, "build-01", "modern", "--distribution", "el9-x86_64")
    assert result.status == 0, result.errors
    assert result.output == (
        f"allowed by runners.build-01.keys[0]  ({state.policy}:11)\npriority normal, 20 signatures a second\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "rule", "line"),
    [
        (["build-01", "modern"], "distribution_missing", "keys.modern.distributions", 5),
        (["build-01", "modern", "--distribution", "el8-x"], "distribution_forbidden", "keys.modern.distributions", 5),
        (
            ["build-01", "modern", "--distribution", "el9-x", "--hash", "sha1"],
            "hash_forbidden",
            "keys.modern.hash_algorithms",
            2,
        ),
        (["build-01", "other"], "key_unknown", "keys.other.fingerprint", 7),
        (["build-02", "modern"], "forbidden", "runners", 9),
    ],
)
def test_an_explanation_names_the_line_that_refuses(
    state: Layout, words: list[str], code: str, rule: str, line: int
) -> None:
    result = explain(state, *words)
    assert result.status == 1
    assert result.output.startswith(f"refused, {code}: {rule}: ")
    assert result.output.endswith(f"  ({state.policy}:{line})\n")
    plain = json.loads(explain(state, *words, "--json").output)
    assert plain["allowed"] is False
    assert (plain["by"][0]["path"], plain["by"][0]["line"], plain["by"][0]["code"]) == (rule, line, code)


def test_a_seal_only_key_is_explained_for_digests_and_for_seals(state: Layout) -> None:
    keys = state.signer / "keys.yaml"
    plain = yaml.safe_load(keys.read_text())
    plain["keys"]["modern"]["seal_only"] = True
    keys.write_text(yaml.safe_dump(plain))
    words = ("build-01", "modern", "--distribution", "el9-x86_64")
    refused = explain(state, *words)
    assert (refused.status, refused.output.startswith("refused, forbidden: keys.modern: seal only")) == (1, True)
    assert explain(state, *words, "--seal").status == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["build-01", "gone"], "the policy has no key gone"),
        (["a/b", "modern"], "RUNNER: expected 1 to 64 letters"),
        (["build-01", "modern", "--distribution", "../x"], "--distribution: expected 1 to 64 letters"),
    ],
)
def test_a_question_about_nothing_is_refused(state: Layout, words: list[str], error: str) -> None:
    result = explain(state, *words)
    assert result.status == 1
    assert result.errors.startswith(f"blind-oracle: error: {error}")


def test_without_the_signers_keys_nothing_is_explained(state: Layout) -> None:
    state.signer.joinpath("keys.yaml").unlink()
    result = explain(state, "build-01", "modern")
    assert result.status == 1
    assert result.errors.startswith("blind-oracle: error: the signer's keys are not known: ")


def test_words_of_a_policy_steer_no_terminal(tmp_path: Path, state: Layout) -> None:
    text = 'keys: {}\nrunners: {}\n"x\\e[2J\\u202e": 1\n'
    status, (line, *_) = said(tmp_path, text)
    assert (status, line[: line.find(": unknown")]) == (1, r":3: error: x\x1b[2J\u202e")
    errors = explain(state, "b", "modern", "--file", str(tmp_path / "policy.yaml")).errors
    assert r"policy.yaml: x\x1b[2J\u202e: unknown key" in errors
    assert errors.replace("\n", "").isprintable()
    state.policy.write_text(text)
    output = blind_oracle("check", "--config", state.oracle_config).output
    assert r"x\x1b[2J\u202e: unknown key" in output
    assert output.replace("\n", "").isprintable()
