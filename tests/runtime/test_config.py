import contextlib
import enum
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.keys import Fingerprint
from agentproxy.runtime.config import line_numbers, load, parse


class Colour(enum.StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Runner:
    keys: tuple[str, ...] = ()
    rate: int = 1
    admin: bool = False
    colour: Colour = Colour.RED
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    runners: dict[str, Runner]
    state: Path = Path("state")
    hash_algorithms: tuple[HashAlgorithm, ...] = ()
    fingerprint: Fingerprint | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "name")


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, Policy, "policy.yaml")
    return str(caught.value)


def test_a_good_file_becomes_a_dataclass_with_paths_from_its_own_directory(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "name: n\nstate: sub/dir\nhash_algorithms: [sha256, sha512]\n"
        f"fingerprint: {'ab' * 20}\nrunners: {{b1: {{keys: [modern], rate: 3, admin: true, share: 0.5}}}}\n"
    )
    policy = load(file, Policy)
    assert policy.state == tmp_path / "sub/dir"
    assert policy.hash_algorithms == (HashAlgorithm.SHA256, HashAlgorithm.SHA512)
    assert policy.runners["b1"] == Runner(("modern",), 3, True, Colour.RED, 0.5)


def test_an_absolute_path_stays_and_text_without_a_file_leaves_paths_alone(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: n\nrunners: {}\nstate: /var/x\n")
    assert load(tmp_path / "p.yaml", Policy).state == Path("/var/x")
    assert parse("name: n\nrunners: {}\nstate: x\n", Policy, "p").state == Path("x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: n\nrunners: {b1: {keys: [a, no]}}", "policy.yaml: runners.b1.keys[1]: expected a string, got bool"),
        ("name: n\nrunners: {b1: {keys: modern}}", "policy.yaml: runners.b1.keys: expected a list, got str"),
        ("name: n\nrunners: [b1]", "policy.yaml: runners: expected an object, got list"),
        ("name: n\nrunners: {b1: }", "policy.yaml: runners.b1: expected an object, got NoneType"),
        ("name: n\nrunners: {b1: {rate: true}}", "policy.yaml: runners.b1.rate: expected an integer, got bool"),
        ("name: n\nrunners: {b1: {rate: '3'}}", "policy.yaml: runners.b1.rate: expected an integer, got str"),
        ("name: n\nrunners: {b1: {admin: 1}}", "policy.yaml: runners.b1.admin: expected true or false, got int"),
        ("name: n\nrunners: {b1: {colour: blue}}", "policy.yaml: runners.b1.colour: expected one of red, got 'blue'"),
        ("name: n\nrunners: {b1: {share: .inf}}", "policy.yaml: runners.b1.share: expected a finite number"),
        ("name: n\nrunners: {b1: {share: .nan}}", "policy.yaml: runners.b1.share: expected a finite number"),
        ("name: n\nrunners: {b1: {rte: 1}}", "policy.yaml: runners.b1.rte: unknown key, did you mean rate?"),
        ("name: n\nrunners: {}\nstate: 5", "policy.yaml: state: expected a path, got int"),
        ("name: 1.10\nrunners: {}", "policy.yaml: name: expected a string, got float"),
        ("runners: {}", "policy.yaml: name: missing"),
        ("", "policy.yaml: name: missing"),
        ("- a\n- b\n", "policy.yaml: expected an object, got list"),
        ("just words", "policy.yaml: expected an object, got str"),
        ("name: 'a b'\nrunners: {}", "policy.yaml: name: expected 1 to 64 letters, digits, '.', '_', '+' or '-'"),
        ("name: n\nrunners: {}\nfingerprint: 0E85", "policy.yaml: fingerprint: a fingerprint has 40 or 64 hex digits"),
        ("name: n\nrunners: {}\nfingerprint: {a: 1}", "policy.yaml: fingerprint: expected a string, got dict"),
        ("name: n\nname: m\nrunners: {}", "policy.yaml: line 2: the key name stands twice"),
        ("name: n\nrunners: {b1: {}, b1: {}}", "policy.yaml: line 2: the key b1 stands twice"),
        ("name: n\nrunners: {no: {}}", "policy.yaml: line 2: the key no is not read as a string: quote it"),
        ("name: n\nrunners: {<<: {a: {}}}", "policy.yaml: line 2: the key << is not read as a string: quote it"),
        ("name: n\nrunners: {[a]: {}}", "policy.yaml: line 2: the key"),
        ("name: n\nrunners: &x {a: {}}\nstate: *x", "policy.yaml: line 3: aliases are not allowed"),
        ("name: n\nrunners: {b1: {rate: 0755}}", "policy.yaml: line 2: the number 0755 can be misread"),
        ("name: n\nrunners: {b1: {rate: 1:30}}", "policy.yaml: line 2: the number 1:30 can be misread"),
        ("name: n\nrunners: {b1: {rate: 1_000}}", "policy.yaml: line 2: the number 1_000 can be misread"),
        ("name: n\nrunners: {b1: {rate: 0x10}}", "policy.yaml: line 2: the number 0x10 can be misread"),
        ("name: n\nrunners:\n\tb1: {}", "policy.yaml: line 3: found character '\\t' that cannot start any token"),
        (
            "name: !!python/name:os.system x\nrunners: {}",
            "policy.yaml: line 1: tags are not allowed, such as tag:yaml.",
        ),
        (
            "name: n\nrunners: {b1: {admin: !!bool maybe}}",
            "policy.yaml: line 2: tags are not allowed, such as tag:yaml.",
        ),
        ("name: !!timestamp foo", "policy.yaml: line 1: tags are not allowed"),
        ('name: !!float ""', "policy.yaml: line 1: tags are not allowed"),
        ("name: !!int ''", "policy.yaml: line 1: tags are not allowed"),
        ("name: !!str n", "policy.yaml: line 1: tags are not allowed"),
        ("name: n\nrunners: !!omap [a]", "policy.yaml: line 2: tags are not allowed"),
        ("name: ! n", "policy.yaml: line 1: tags are not allowed, such as !"),
        ('name: n\nstate: "\\UFFFFFFFF"', "policy.yaml: line 2: not YAML: "),
        ('name: n\nstate: "\\ud800"', "policy.yaml: line 2: half a character is not allowed"),
        ('name: n\nstate: "a\\0b"', "policy.yaml: line 2: the character 0 is not allowed"),
        (f"name: n\nrunners: {{b1: {{rate: {'9' * 5000}}}}}", "policy.yaml: line 2: not YAML: "),
        ("name: n\n---\nname: m\n", "policy.yaml: line 2: but found another document"),
        ("name: [", "policy.yaml: line 1: "),
        ("name: \x07", "policy.yaml: not YAML: "),
        ("a: " + "[" * 40 + "]" * 40, "policy.yaml: line 1: nested deeper than 32 levels"),
        ("[" * 100_000, "policy.yaml: line 1: nested deeper than 32 levels"),
        ("#" * 1_100_000, "policy.yaml: longer than 1048576 bytes"),
        (
            "name: n\nrunners: {}\nhash_algorithms: [SHA-256]",
            "policy.yaml: hash_algorithms[0]: expected one of md5, sha1",
        ),
        ("name: n\nrunners: {}\nhash_algorithms: [8]", "policy.yaml: hash_algorithms[0]: expected one of md5, sha1"),
    ],
)
def test_a_wrong_file_is_refused_with_the_path_and_what_was_expected(text: str, expected: str) -> None:
    assert problem(text).startswith(expected)


# What YAML gives a meaning to, and words that are odd behind it.
_ODD = st.sampled_from(
    [
        *"!&*|>%@`\"'\\#,:?-[]{}<>=~ \n\t",
        "!!",
        "---\n",
        "...\n",
        ": ",
        "- ",
        "? ",
        "<<",
        "\\U",
        "\\ud800",
        "%YAML 1.",
        "%TAG ",
    ]
    + [
        f"!!{tag} "
        for tag in ("bool", "int", "float", "null", "timestamp", "binary", "omap", "pairs", "set", "map", "str")
    ]
    + [
        "maybe",
        "foo",
        '""',
        "0x",
        "0b2",
        "1_",
        "._",
        "1e9",
        "-.inf",
        "2026-02-30",
        "99:99",
        "name: n\n",
        "runners: {}\n",
    ]
)


@given(st.lists(_ODD | st.text(max_size=5), max_size=12).map("".join))
@example("name: !!bool maybe")
@example("name: !!timestamp foo")
@example('name: !!float ""')
@example('name: "\\UFFFFFFFF"')
def test_any_text_is_a_configuration_or_a_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text, Policy, "policy.yaml")
    line_numbers(text)


def test_all_problems_are_reported_together() -> None:
    lines = problem("nam: n\nrunners: {b1: {rate: x, keys: [1, 2]}, b2: 5}").splitlines()
    assert lines == [
        "policy.yaml: name: missing",
        "policy.yaml: runners.b1.keys[0]: expected a string, got int",
        "policy.yaml: runners.b1.keys[1]: expected a string, got int",
        "policy.yaml: runners.b1.rate: expected an integer, got str",
        "policy.yaml: runners.b2: expected an object, got int",
        "policy.yaml: nam: unknown key, did you mean name?",
    ]


def test_a_date_without_quotes_is_a_string() -> None:
    assert parse("name: 2026-11-22\nrunners: {}", Policy, "p").name == "2026-11-22"


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        load(tmp_path / "gone.yaml", Policy)
    (tmp_path / "b.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"b\.yaml: expected UTF-8, byte 6 is not"):
        load(tmp_path / "b.yaml", Policy)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, Policy)
    os.truncate(tmp_path / "b.yaml", 0)
    (tmp_path / "b.yaml").write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError, match="longer than"):
        load(tmp_path / "b.yaml", Policy)
