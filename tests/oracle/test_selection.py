import pytest

from agentproxy.oracle.policy import Deny, KeyRule, Policy, RunnerRule
from agentproxy.oracle.selection import select_key
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.fields import KeyFacts
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
