import stat
from pathlib import Path

import pytest

from agentproxy.admin import templates
from agentproxy.admin.policyfile import Addition, add, key_addition, runner_addition
from agentproxy.oracle.policy import Policy
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.keys import Fingerprint
from agentproxy.runtime.config import load

A, B = Fingerprint(b"\xaa" * 20), Fingerprint(b"\xbb" * 20)
KEY = key_addition("modern", A, "modern")
RUNNER = runner_addition("build-01", ["modern"])
DEEPER = f'    modern:\n      fingerprint: "{A}"\n      type: "modern"\n'
OLD = f"keys:\n  old:\n    fingerprint: {B}\n    type: x\n    distributions:\n    - el9-*\n"
ENTRY = f'  modern:\n    fingerprint: "{A}"\n    type: "modern"\n'


def changed(tmp_path: Path, text: str, addition: Addition) -> str:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    assert add(file, addition)
    return file.read_text()


def test_the_policy_that_init_writes_takes_keys_and_runners_and_keeps_its_comments(tmp_path: Path) -> None:
    text = changed(tmp_path, templates.POLICY, KEY)
    text = changed(tmp_path, text, key_addition("legacy", B, "legacy"))
    text = changed(tmp_path, text, RUNNER)
    comments = [line for line in templates.POLICY.splitlines() if line.startswith("#")]
    assert [line for line in text.splitlines() if line.startswith("#")] == comments
    policy = load(tmp_path / "policy.yaml", Policy)
    assert list(policy.keys) == ["modern", "legacy"]
    assert policy.runners["build-01"].keys == ("modern",)


def test_a_key_that_not_all_hashes_fit_names_those_that_do(tmp_path: Path) -> None:
    algorithms = (HashAlgorithm.SHA384, HashAlgorithm.SHA512)
    text = changed(tmp_path, templates.POLICY, key_addition("p384", A, "modern", algorithms))
    assert "    hash_algorithms: [sha384, sha512]\n" in text
    assert load(tmp_path / "policy.yaml", Policy).keys["p384"].hash_algorithms == algorithms


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("keys: {}\nrunners: {}\n", f"keys:\n{ENTRY}runners: {{}}\n"),
        ("keys: {}  # none yet\nrunners: {}\n", f"keys:\n{ENTRY}# none yet\nrunners: {{}}\n"),
        ("runners: {}\nkeys: {}", f"runners: {{}}\nkeys:\n{ENTRY}"),
        (
            f"keys:\n    old:\n        fingerprint: {B}\n        type: x # the last\n# next\nrunners: {{}}\n",
            f"keys:\n    old:\n        fingerprint: {B}\n        type: x # the last\n{DEEPER}# next\nrunners: {{}}\n",
        ),
        (
            f"keys:\n  old: {{fingerprint: {B}, type: x}}\n\nrunners: {{}}\n",
            f"keys:\n  old: {{fingerprint: {B}, type: x}}\n{ENTRY}\nrunners: {{}}\n",
        ),
        (
            f"{OLD}runners: {{}}\n",
            f"{OLD}{ENTRY}runners: {{}}\n",
        ),
    ],
)
def test_an_entry_goes_to_the_end_of_its_section_and_nothing_else_changes(
    before: str, after: str, tmp_path: Path
) -> None:
    assert changed(tmp_path, before, KEY) == after


def test_the_same_entry_again_changes_nothing(tmp_path: Path) -> None:
    text = changed(tmp_path, templates.POLICY, KEY)
    assert not add(tmp_path / "policy.yaml", KEY)
    assert (tmp_path / "policy.yaml").read_text() == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"keys: {{modern: {{fingerprint: {B}, type: x}}}}\nrunners: {{}}\n", "keys.modern is there already"),
        (f"keys: {{old: {{fingerprint: {B}, type: x}}}}\nrunners: {{}}\n", "has a form that is not changed here"),
        ("{keys: {}, runners: {}}\n", "has a form that is not changed here"),
    ],
)
def test_what_cannot_be_changed_safely_stays_and_the_lines_are_shown(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        add(file, KEY)
    assert f"keys:\n{ENTRY}" in caught.value.hint
    assert file.read_text() == text


def test_a_wrong_policy_is_refused_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("keys: {}\nkeys: {}\nrunners: {}\n")
    with pytest.raises(ConfigError, match="the key keys stands twice"):
        add(file, KEY)


@pytest.mark.parametrize("name", ["no", "1", "1e3", "0x10", "2026-11-22", "null"])
def test_a_name_that_yaml_reads_as_something_else_is_quoted(name: str, tmp_path: Path) -> None:
    changed(tmp_path, templates.POLICY, key_addition(name, A, "modern"))
    add(tmp_path / "policy.yaml", runner_addition(name, [name]))
    policy = load(tmp_path / "policy.yaml", Policy)
    assert policy.runners[name].keys == (name,)
    assert policy.keys[name].fingerprint == A


def test_lines_that_end_as_on_windows_stay_so(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(f"# ours\n{OLD}runners: {{}}\n".replace("\n", "\r\n").encode())
    assert add(file, KEY)
    assert file.read_bytes().decode() == f"# ours\n{OLD}{ENTRY}runners: {{}}\n".replace("\n", "\r\n")


def test_mode_and_symbolic_link_stay(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(templates.POLICY)
    (tmp_path / "real.yaml").chmod(0o640)
    (tmp_path / "policy.yaml").symlink_to("real.yaml")
    assert add(tmp_path / "policy.yaml", KEY)
    assert (tmp_path / "policy.yaml").is_symlink()
    assert stat.S_IMODE((tmp_path / "real.yaml").stat().st_mode) == 0o640
    assert "modern" in (tmp_path / "real.yaml").read_text()
