import dataclasses
from bisect import bisect_left
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.oracle.policy import (
    Allow,
    Deny,
    KeyRule,
    Policy,
    Question,
    RunnerRule,
    contradicts,
    decide,
    explain,
    served_keys,
)
from agentproxy.oracle.policycheck import MAX_KEYS_BYTES, check
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.frames import MAX_PAYLOAD
from agentproxy.protocol.keys import Curve, EccPublicKey
from agentproxy.protocol.messages import FROM_ORACLE
from agentproxy.protocol.oracle_messages import KeysChanged, Welcome
from tests.oracle.samples import LEGACY, MODERN, SEALED, SERVED, SMALL, caller, policy
from tests.oracle.samples import facts as facts_of

SHA256 = HashAlgorithm.SHA256
EL10 = RunnerRule(("modern", "small"), distributions=("el10-*",))

DECISIONS: list[tuple[str, RunnerRule, KeyFacts | None, Question, str | RefusalCode]] = [
    ("its first key", RunnerRule(("modern",)), MODERN, Question(SHA256), "runners.build-01.keys[0]"),
    ("its second key", RunnerRule(("legacy", "modern")), MODERN, Question(SHA256), "runners.build-01.keys[1]"),
    ("every default hash", RunnerRule(("modern",)), MODERN, Question(HashAlgorithm.SHA512), "runners.build-01.keys[0]"),
    ("SHA-1", RunnerRule(("modern",)), MODERN, Question(HashAlgorithm.SHA1), RefusalCode.HASH_FORBIDDEN),
    (
        "a hash not named",
        RunnerRule(("small",)),
        SMALL,
        Question(HashAlgorithm.SHA512, "el10-x"),
        RefusalCode.HASH_FORBIDDEN,
    ),
    ("another's key", RunnerRule(("legacy",)), MODERN, Question(SHA256), RefusalCode.FORBIDDEN),
    ("a key nobody serves", RunnerRule(("modern",)), None, Question(SHA256), RefusalCode.KEY_UNKNOWN),
    ("a seal-only key", RunnerRule(("sealed",)), SEALED, Question(SHA256), RefusalCode.FORBIDDEN),
    (
        "a seal-only key, sealed",
        RunnerRule(("sealed",)),
        SEALED,
        Question(SHA256, seal=True),
        "runners.build-01.keys[0]",
    ),
    (
        "the key's distribution",
        RunnerRule(("legacy",)),
        LEGACY,
        Question(SHA256, "el7-x86_64"),
        "runners.build-01.keys[0]",
    ),
    ("no distribution", RunnerRule(("legacy",)), LEGACY, Question(SHA256), RefusalCode.DISTRIBUTION_MISSING),
    (
        "a wrong distribution",
        RunnerRule(("legacy",)),
        LEGACY,
        Question(SHA256, "el8-x"),
        RefusalCode.DISTRIBUTION_FORBIDDEN,
    ),
    ("the runner's distribution", EL10, MODERN, Question(SHA256, "el10-x"), "runners.build-01.keys[0]"),
    ("not the runner's", EL10, MODERN, Question(SHA256, "el9-x"), RefusalCode.DISTRIBUTION_FORBIDDEN),
    ("the runner's, missing", EL10, MODERN, Question(SHA256), RefusalCode.DISTRIBUTION_MISSING),
    ("a claim against it", EL10, MODERN, Question(SHA256, "el10-x", ("el9-x",)), RefusalCode.DISTRIBUTION_FORBIDDEN),
    (
        "one of two claims against it",
        EL10,
        MODERN,
        Question(SHA256, "el10-x", ("el10", "el9")),
        RefusalCode.DISTRIBUTION_FORBIDDEN,
    ),
    (
        "a claimed EL9, whose rpm verifies no such key",
        RunnerRule(("small",)),
        SMALL,
        Question(SHA256, "el10-x", ("el9",)),
        RefusalCode.DISTRIBUTION_FORBIDDEN,
    ),
    ("a claim without architecture", EL10, MODERN, Question(SHA256, "el10-x", ("el10",)), "runners.build-01.keys[0]"),
    (
        "a claim that is longer than its pattern",
        EL10,
        MODERN,
        Question(SHA256, "el10-x", ("el100",)),
        RefusalCode.DISTRIBUTION_FORBIDDEN,
    ),
    (
        "a claim against what the request says, where no pattern says anything",
        RunnerRule(("modern",)),
        MODERN,
        Question(SHA256, "el10-x", ("el9",)),
        RefusalCode.DISTRIBUTION_FORBIDDEN,
    ),
    ("only a claim for it", EL10, MODERN, Question(SHA256, None, ("el10-x",)), RefusalCode.DISTRIBUTION_MISSING),
    ("case counts", EL10, MODERN, Question(SHA256, "EL10-x"), RefusalCode.DISTRIBUTION_FORBIDDEN),
]


@pytest.mark.parametrize(
    ("rule", "facts", "question", "expected"), [row[1:] for row in DECISIONS], ids=[r[0] for r in DECISIONS]
)
def test_the_decision_names_its_line(
    rule: RunnerRule, facts: KeyFacts | None, question: Question, expected: str | RefusalCode
) -> None:
    decision = decide(policy(**{"build-01": rule}), caller(), question, facts)
    assert (decision.rule if isinstance(decision, Allow) else decision.code) == expected


def test_who_names_no_distribution_is_told_where_to_name_one() -> None:
    """Claims do not name it: somebody may have given one to a tool already, and wonder."""
    for runner, key in ((EL10, MODERN), (RunnerRule(("legacy",)), LEGACY)):
        denied = decide(policy(**{"build-01": runner}), caller(), Question(SHA256, None, ("el10-x",)), key)
        assert isinstance(denied, Deny)
        assert "relay.yaml" in denied.reason
        assert "--distribution" in denied.reason


@pytest.mark.parametrize(
    ("distribution", "claimed", "expected"),
    [
        ("el10-x86_64", "el9", True),
        ("el10-x86_64", "el1", True),
        ("el10-x86_64", "el10", False),
        ("el10.1-x86_64", "el10", False),
        ("el10_1-x86_64", "el10-x86_64", False),
        ("fedora-41-x86_64", "fedora42", True),
        ("fedora-41-x86_64", "fc42", False),  # names of our own need not be the tags of packages
        ("bookworm", "el9", False),
    ],
)
def test_other_releases_of_one_family_contradict_each_other(distribution: str, claimed: str, expected: bool) -> None:
    assert contradicts(distribution, claimed) is expected


def test_a_runner_that_the_policy_does_not_name_gets_nothing() -> None:
    decision = decide(policy(), caller("stranger"), Question(SHA256), MODERN)
    assert decision == Deny(RefusalCode.FORBIDDEN, "runners: no stranger")


ED448 = facts_of("ed448", EccPublicKey(Curve.ED448, bytes(57)))


def with_key(rule: KeyRule) -> Policy:
    return Policy(keys={"k": rule}, runners={"build-01": RunnerRule(("k",))})


@pytest.mark.parametrize(
    ("facts", "key_type", "pattern", "distribution"),
    [
        (SMALL, "modern", "el*", "el7-x86_64"),
        (LEGACY, "legacy", "el*", "el10-x86_64"),
        (SMALL, "modern", "*", "centos7"),
        (SMALL, "modern", "el?-*", "el8-x86_64"),
        (SMALL, "modern", "el*", "el9-x86_64"),
    ],
)
def test_a_wrong_combination_that_a_wide_pattern_hides_is_refused_when_asked_for(
    facts: KeyFacts, key_type: str, pattern: str, distribution: str
) -> None:
    rules = with_key(KeyRule(facts.fingerprint, key_type, (pattern,)))
    assert check(rules, SERVED) == ()
    decision = decide(rules, caller(), Question(SHA256, distribution), facts)
    assert isinstance(decision, Deny)
    assert decision.code is RefusalCode.DISTRIBUTION_FORBIDDEN


@pytest.mark.parametrize(
    ("facts", "key_type", "pattern", "is_wrong"),
    [
        (SMALL, "modern", "el7-*", True),
        (SMALL, "modern", "el6", True),
        (SMALL, "modern", "el8-*", True),
        (SMALL, "modern", "el9-x86_64", True),
        (SMALL, "modern", "rocky9-*", True),
        (SMALL, "modern", "fedora-41", False),
        (SMALL, "modern", "el10-*", False),
        (SMALL, "modern", "el1*", False),
        (ED448, "modern", "el10-*", True),
        (ED448, "modern", "fedora-41", False),
        (MODERN, "modern", "el7-*", False),
        (MODERN, "modern", "el9-*", False),
        (LEGACY, "legacy", "el10-*", True),
        (LEGACY, "legacy", "el10", True),
        (LEGACY, "legacy", "el9-*", False),
        (LEGACY, "legacy", "fedora-41", False),
    ],
)
def test_wrong_combinations_are_found_in_the_file(facts: KeyFacts, key_type: str, pattern: str, is_wrong: bool) -> None:
    problems = check(with_key(KeyRule(facts.fingerprint, key_type, (pattern,))), (*SERVED, ED448))
    assert [problem.path for problem in problems] == ["keys.k.distributions[0]"] * is_wrong


def test_every_problem_has_its_path() -> None:
    rules = Policy(
        keys={
            "a": KeyRule(MODERN.fingerprint, "mo dern", ("el[89]",), (HashAlgorithm.SHA1,)),
            "b": KeyRule(MODERN.fingerprint, "modern", hash_algorithms=()),
        },
        runners={
            "r": RunnerRule(("a", "c", "a"), ("/",), rate=0, token_burst=0, networks=("10.0.0.1/8",), token_only=True),
            "r\n": RunnerRule(("a",)),
        },
    )
    assert [problem.path for problem in check(rules, SERVED)] == [
        "keys.a.type",
        "keys.a.distributions[0]",
        "keys.a.hash_algorithms[0]",
        "keys.b.hash_algorithms",
        "keys.a.fingerprint",
        "runners.r.keys[1]",
        "runners.r.keys[2]",
        "runners.r.distributions[0]",
        "runners.r.networks[0]",
        "runners.r.rate",
        "runners.r.token_burst",
        "runners.r.token_burst",
        "runners.r.token_only",
        "runners.r\n",
    ]


@pytest.mark.parametrize(("seal_only", "words"), [(False, "could change certificates"), (True, "for seal only")])
def test_a_key_that_can_certify_stays_a_warning(seal_only: bool, words: str) -> None:
    served = dataclasses.replace(MODERN, can_certify=True, seal_only=seal_only)
    (problem,) = check(with_key(KeyRule(MODERN.fingerprint, "modern")), [served])
    assert problem.warning
    assert problem.path == "keys.k"
    assert problem.message.startswith("the key can certify; ")
    assert words in problem.message


def with_patterns(number: int) -> Policy:
    """Policy of two runners with one key, for that many distributions with names of 64 characters."""
    patterns = tuple(f"el10-{place:x>58}*" for place in range(number))
    return Policy({"k": KeyRule(MODERN.fingerprint, "modern", patterns)}, {"r" * 64: RunnerRule(("k",))})


def test_what_a_relay_is_told_of_its_keys_fits_into_one_message() -> None:
    most = bisect_left(range(2000), True, key=lambda number: bool(check(with_patterns(number), SERVED))) - 1
    assert most > 900
    name, now = "r" * 64, datetime.now(UTC)
    keys = served_keys(with_patterns(most), name, SERVED)
    head = Head(name, (1 << 63) - 1, b"\xff" * 32)
    told = FROM_ORACLE.encode(Welcome(1, "n" * 64, name, "s" * 64, now, keys, 4096, head, fallback=False))
    assert MAX_PAYLOAD - 1024 < len(told) <= MAX_PAYLOAD
    (problem,) = check(with_patterns(most + 1), SERVED)
    assert (problem.path, problem.warning) == (f"runners.{name}.keys", False)
    assert "expected at most 64512 bytes of keys with their distributions, got 645" in problem.message
    assert "combine distributions by patterns; k has 645" in problem.message


def test_many_keys_are_told_as_long_as_the_last_of_them_fits() -> None:
    served = [facts_of(f"k{number}", EccPublicKey(Curve.ED25519, number.to_bytes(32))) for number in range(200)]
    rules = {key.name: KeyRule(key.fingerprint, "modern") for key in served}

    def of(number: int) -> Policy:
        return Policy(rules, {"few": RunnerRule(("k0",)), "many": RunnerRule(tuple(rules)[:number])})

    most = bisect_left(range(len(served)), True, key=lambda number: bool(check(of(number), served))) - 1
    told = FROM_ORACLE.encode(KeysChanged(served_keys(of(most), "many", served)))
    assert MAX_KEYS_BYTES - 1024 < len(told) <= MAX_PAYLOAD
    assert [problem.path for problem in check(of(most + 1), served)] == ["runners.many.keys"]


def test_a_good_policy_has_no_problems() -> None:
    assert check(policy(), SERVED) == ()


def test_a_runner_is_told_of_its_keys_only() -> None:
    keys = served_keys(policy(**{"build-01": RunnerRule(("small", "modern"))}), "build-01", SERVED)
    assert [(key.facts.name, key.key_type, key.distributions) for key in keys] == [
        ("small", "modern", ("el10-*",)),
        ("modern", "modern", ()),
    ]
    assert served_keys(policy(), "stranger", SERVED) == ()


def test_an_explanation_lists_every_objection() -> None:
    denied = explain(policy(), caller(), "small", Question(HashAlgorithm.SHA512, "el7-x"), SMALL)
    assert isinstance(denied, tuple)
    assert [(each.code, each.rule) for each in denied] == [
        (RefusalCode.HASH_FORBIDDEN, "keys.small.hash_algorithms"),
        (RefusalCode.DISTRIBUTION_FORBIDDEN, "keys.small.distributions"),
        (RefusalCode.DISTRIBUTION_FORBIDDEN, "keys.small"),
    ]
    allowed = explain(policy(), caller(), "modern", Question(SHA256), MODERN)
    assert isinstance(allowed, Allow)
    assert allowed.rule == "runners.build-01.keys[0]"


questions = st.builds(
    Question,
    st.sampled_from(HashAlgorithm),
    st.none() | st.sampled_from(["el7-x", "el8-x", "el10-x", "fedora-41"]),
    st.lists(st.sampled_from(["el7-x", "el10-x", "el7", "el10", "fedora"]), max_size=3).map(tuple),
)


@given(questions, st.sampled_from(SERVED), st.sampled_from(["build-01", "stranger"]))
def test_a_claim_never_widens_a_decision(question: Question, facts: KeyFacts, runner: str) -> None:
    without = dataclasses.replace(question, claimed_distributions=())
    if isinstance(decide(policy(), caller(runner), question, facts), Allow):
        assert isinstance(decide(policy(), caller(runner), without, facts), Allow)


@given(questions, st.sampled_from(SERVED))
def test_an_explanation_says_what_the_decision_says(question: Question, facts: KeyFacts) -> None:
    decision = decide(policy(), caller(), question, facts)
    explained = explain(policy(), caller(), facts.name, question, facts)
    assert (explained if isinstance(explained, Allow) else explained[0]) == decision
