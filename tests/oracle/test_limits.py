import pytest

from agentproxy.oracle.limits import Limits
from agentproxy.oracle.policy import RunnerRule
from agentproxy.protocol.errors import LimitedError
from tests.oracle.samples import caller


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(limits: Limits, rule: RunnerRule, token: str, most: int = 1000) -> int:
    for count in range(most):
        try:
            limits.take(caller(token=token), rule)
        except LimitedError:
            return count
    return most


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    clock = Clock()
    limits = Limits(clock)
    rule = RunnerRule((), rate=10, burst=5)
    assert taken(limits, rule, "t") == 5
    clock.now += 0.375  # exact in binary
    assert taken(limits, rule, "t") == 3
    clock.now += 3600
    assert taken(limits, rule, "t") == 5


def test_a_refusal_says_when_to_come_again() -> None:
    clock = Clock()
    limits = Limits(clock)
    rule = RunnerRule((), rate=2, burst=1)
    limits.take(caller(), rule)
    with pytest.raises(LimitedError, match=r"runners\.build-01\.rate") as refused:
        limits.take(caller(), rule)
    assert 500 <= refused.value.retry_after_ms <= 501
    clock.now += refused.value.retry_after_ms / 1000
    limits.take(caller(), rule)


def test_all_tokens_of_a_runner_share_its_bucket() -> None:
    limits = Limits(Clock())
    rule = RunnerRule((), rate=10, burst=5)
    assert taken(limits, rule, "one") == 5
    assert taken(limits, rule, "two") == 0


def test_a_token_s_own_limit_leaves_the_rest_to_the_runner_s_other_tokens() -> None:
    limits = Limits(Clock())
    rule = RunnerRule((), rate=10, burst=5, token_rate=1, token_burst=2)
    assert taken(limits, rule, "one") == 2
    assert taken(limits, rule, "two") == 2
    assert taken(limits, rule, "three") == 1


def test_a_refused_signature_costs_nothing() -> None:
    limits = Limits(Clock())
    rule = RunnerRule((), rate=10, burst=5, token_rate=1, token_burst=2)
    assert taken(limits, rule, "one") == 2
    for _ in range(10):
        assert taken(limits, rule, "one") == 0
    assert taken(limits, rule, "two") == 2


def test_without_a_rate_nothing_is_limited() -> None:
    assert taken(Limits(Clock()), RunnerRule(()), "t") == 1000


def test_the_memory_of_limits_is_bounded() -> None:
    clock = Clock()
    limits = Limits(clock)
    rule = RunnerRule((), token_rate=1, token_burst=1)
    for number in range(12_000):
        clock.now += 0.001
        limits.take(caller(token=str(number)), rule)
    assert len(limits._buckets) <= 10_000
