from dataclasses import replace
from datetime import timedelta

import pytest

from agentproxy.oracle.policy import Deny, KeyRule, Policy, RunnerRule
from agentproxy.oracle.selection import select_key
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.keys import Fingerprint
from tests.oracle.samples import LEGACY, MODERN, SERVED, SMALL, policy


@pytest.mark.parametrize(
    ("distribution", "key_type", "expected"),
    [
        ("el10-x86_64", None, "small"),
        ("el10-x86_64", "modern", "small"),
        ("el7-x86_64", "legacy", "legacy"),
        ("el9-x86_64", "modern", "modern"),
    ],
)
@pytest.mark.parametrize("served", [None, SERVED])
def test_the_most_exact_pattern_selects_the_key(
    distribution: str, key_type: str | None, expected: str, served: tuple[KeyFacts, ...] | None
) -> None:
    assert select_key(policy(), distribution, key_type, served=served) == expected


@pytest.mark.parametrize(("distribution", "key_type"), [("el10-x", "legacy"), ("el9-x", None), ("el9-x", "ancient")])
def test_no_key_is_selected_by_guessing(distribution: str, key_type: str | None) -> None:
    assert isinstance(select_key(policy(), distribution, key_type), Deny)


def test_a_key_that_the_distribution_cannot_verify_is_passed_over() -> None:
    keys = {"small": KeyRule(SMALL.fingerprint, "modern", ("el*",)), "any": KeyRule(MODERN.fingerprint, "modern")}
    rules = Policy(keys, {})
    assert select_key(rules, "el9-x", served=SERVED) == "any"
    assert select_key(rules, "el10-x", served=SERVED) == "small"


NEXT = replace(MODERN, name="next", fingerprint=Fingerprint(b"\x22" * 20), created=MODERN.created + timedelta(days=1))
BOTH = {"modern": KeyRule(MODERN.fingerprint, "modern"), "next": KeyRule(NEXT.fingerprint, "modern")}


@pytest.mark.parametrize(("distribution", "key_type"), [("el9-x", None), ("el9-x", "modern"), (None, "modern")])
def test_of_two_subkeys_of_one_certificate_the_newer_one_is_taken(
    distribution: str | None, key_type: str | None
) -> None:
    assert select_key(Policy(BOTH, {}), distribution, key_type, served=(NEXT, MODERN)) == "next"
    assert select_key(Policy(BOTH, {}), distribution, key_type, served=(MODERN,)) == "modern"
    another = replace(NEXT, primary=Fingerprint(b"\x33" * 20))
    assert isinstance(select_key(Policy(BOTH, {}), distribution, key_type, served=(another, MODERN)), Deny)
    for_something_else = BOTH | {"next": KeyRule(NEXT.fingerprint, "test")}
    chosen = select_key(Policy(for_something_else, {}), distribution, key_type, served=(NEXT, MODERN))
    assert chosen == "modern" if key_type else isinstance(chosen, Deny)


@pytest.mark.parametrize(
    ("types", "distribution", "key_type", "reason"),
    [
        ("modern legacy", None, None, "keys: a and b fit equally well; name a distribution or a type"),
        ("modern modern", None, None, "keys: a and b fit equally well; name a distribution"),
        ("modern modern", None, "modern", "keys: a and b of type modern fit equally well; name a distribution"),
        ("modern legacy", "el9-x", None, "keys: a and b fit el9-x equally well; name a type"),
        ("modern modern", "el9-x", None, "keys: a and b fit el9-x equally well; the policy's distributions must tell"),
        ("modern modern", "el9-x", "modern", "keys: a and b of type modern fit el9-x equally well; the policy's dist"),
    ],
)
def test_who_gets_none_of_several_is_told_what_would_help(
    types: str, distribution: str | None, key_type: str | None, reason: str
) -> None:
    first, second = types.split()
    rules = {"a": KeyRule(MODERN.fingerprint, first), "b": KeyRule(LEGACY.fingerprint, second)}
    chosen = select_key(Policy(rules, {}), distribution, key_type)
    assert isinstance(chosen, Deny)
    assert chosen.reason.startswith(reason)
    assert ("type" in chosen.reason.partition(";")[2]) == reason.endswith("type")


def test_a_key_that_nobody_serves_is_passed_over() -> None:
    assert select_key(policy(), "el10-x", "modern", served=(MODERN, LEGACY)) == "modern"
    assert isinstance(select_key(policy(), "el10-x", served=()), Deny)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (RunnerRule(("modern",)), "modern"),
        (RunnerRule(("modern", "small")), "small"),
        (RunnerRule(("legacy",)), RefusalCode.KEY_UNKNOWN),
        (RunnerRule(("small",), ("el9-*",)), RefusalCode.DISTRIBUTION_FORBIDDEN),
    ],
)
def test_a_runner_gets_a_key_that_it_may_use_there(rule: RunnerRule, expected: str) -> None:
    chosen = select_key(policy(**{"build-01": rule}), "el10-x", runner="build-01", served=SERVED)
    assert (chosen.code if isinstance(chosen, Deny) else chosen) == expected


def test_a_stranger_is_told_of_no_key() -> None:
    assert select_key(policy(), "el10-x", runner="stranger") == Deny(RefusalCode.FORBIDDEN, "runners: no stranger")
