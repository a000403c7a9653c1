"""What a build script asks the relay: which key is for a distribution, and what became of a request."""

import json
from collections.abc import Iterator

import pytest

from tests.end_to_end.offline import Offline
from tests.end_to_end.place import System, system_with


@pytest.fixture(name="made", scope="module")
def system_with_distributions(offline: Offline) -> Iterator[System]:
    with system_with({name: offline.exports[name] for name in ("modern", "legacy")}) as system:
        system.restrict({"modern": "el10-*", "legacy": "el7-*"})
        system.wait_for_claims()
        yield system


def key_for(system: System, *words: str) -> str:
    done = system.run("blind-oracle-relay", "key-for", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_key_for_a_distribution_is_what_gpg_can_be_given(system: System, offline: Offline) -> None:
    assert key_for(system, "el10-x86_64") == f"{offline.primaries['modern']}\n"
    assert key_for(system, "el7-x86_64") == f"{offline.primaries['legacy']}\n"
    plain = json.loads(key_for(system, "el7-x86_64", "--json"))
    assert plain["fingerprint"] == offline.fingerprints["legacy"]
    assert (plain["name"], plain["local_user"]) == ("legacy", offline.primaries["legacy"])
    assert plain["fallback"] is False


def test_without_a_distribution_the_type_decides(system: System, offline: Offline) -> None:
    assert key_for(system, "--type", "legacy") == f"{offline.primaries['legacy']}\n"
    done = system.run("blind-oracle-relay", "key-for")
    assert done.returncode == 1
    assert "more than one key: modern (modern), legacy (legacy)" in done.stderr
    assert "hint: name a distribution, or a type: key-for --type, blind-oracle-sign-package --key-type" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("el6-x86_64",), "keys: none for el6-x86_64"),
        (("el10-x86_64", "--type", "legacy"), "keys: none for el10-x86_64 of type legacy"),
        (("el 10",), "distribution"),
    ],
)
def test_no_key_is_an_error_with_the_oracles_reason(system: System, words: tuple[str, ...], reason: str) -> None:
    done = system.run("blind-oracle-relay", "key-for", *words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_the_outcome_of_a_request_is_found_by_its_callers_command_line(system: System) -> None:
    sign = "gpg --batch --local-user modern@example.org --armor --output - --detach-sign"
    refused = system.run("sh", "-c", f"echo x | {sign}; echo ended >/dev/null", "job-4711")
    assert refused.returncode == 0
    done = system.run("blind-oracle-relay", "outcome", "job-4711")
    assert done.returncode == 0
    assert done.stdout.startswith("refused modern: distribution_missing: ")
    assert system.run("blind-oracle-relay", "outcome", "job-4712").returncode == 1
