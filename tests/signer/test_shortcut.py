import pytest

from agentproxy.signer.shortcut import CROWD_NS, HERE_NS, LONE_NS, QUICK_NS, WAITED_NS, Shortcut

LATE = 10**12  # nanoseconds: long after whatever was before


@pytest.mark.parametrize(
    ("likely_ns", "is_idle", "chosen"),
    [
        ([None], True, [False]),  # perhaps a device
        ([QUICK_NS - 1], True, [True]),
        ([LONE_NS - 1], True, [True]),
        ([LONE_NS], True, [False]),
        ([QUICK_NS - 1], False, [True]),
        ([LONE_NS - 1], False, [False]),  # another processor is free, or will be
        ([QUICK_NS, QUICK_NS], True, [False, False]),
        ([QUICK_NS - 1, None, LONE_NS - 1], True, [True, False, False]),
        ([QUICK_NS - 1] * 3, True, [True, True, False]),  # more than HERE_NS together
        ([HERE_NS // 100] * 101, False, [True] * 100 + [False]),
    ],
)
def test_what_is_quick_or_alone_is_done_here(likely_ns: list[int | None], is_idle: bool, chosen: list[bool]) -> None:
    assert Shortcut().choose(likely_ns, is_idle=is_idle, now=LATE) == chosen


def test_who_had_to_wait_for_a_lone_job_sends_slow_ones_to_the_threads_for_a_while() -> None:
    shortcut = Shortcut()
    assert shortcut.choose([LONE_NS - 1], is_idle=True, now=LATE) == [True]
    shortcut.ended(LATE)
    waited = LATE + WAITED_NS - 1
    assert shortcut.choose([LONE_NS - 1], is_idle=True, now=waited) == [False]
    assert shortcut.choose([QUICK_NS - 1], is_idle=True, now=waited) == [True]
    assert shortcut.choose([LONE_NS - 1], is_idle=True, now=waited + CROWD_NS - 1) == [False]
    assert shortcut.choose([LONE_NS - 1], is_idle=True, now=waited + CROWD_NS) == [True]


def test_a_client_that_comes_back_after_its_answer_is_alone() -> None:
    shortcut = Shortcut()
    for turn in range(3):
        assert shortcut.choose([LONE_NS - 1], is_idle=True, now=LATE + turn * WAITED_NS) == [True]
        shortcut.ended(LATE + turn * WAITED_NS)
