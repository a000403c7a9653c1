import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.oracle.policy import Priority
from agentproxy.oracle.queue import Turns
from agentproxy.protocol.errors import LimitedError

NORMAL = Priority.NORMAL


class Signer:
    """Notes the order of turns."""

    def __init__(self, *, window: int = 1, most: int = 10_000, most_per_runner: int = 10_000) -> None:
        self.started: list[str] = []
        self.turns: Turns[str] = Turns(self.started.append, window=window, most=most, most_per_runner=most_per_runner)

    def finish(self, count: int) -> None:
        for _ in range(count):
            self.turns.done(1)


def test_a_free_signer_starts_at_once() -> None:
    signer = Signer(window=2)
    for item in ("a1", "a2", "a3"):
        signer.turns.submit("a", NORMAL, 1, item)
    assert signer.started == ["a1", "a2"]
    signer.finish(1)
    assert signer.started == ["a1", "a2", "a3"]


def test_what_ends_while_it_is_started_makes_the_next_ones_start_in_order() -> None:
    started: list[str] = []

    def start(item: str) -> None:
        started.append(item)
        turns.done(1)  # as when the signer is away
        if item == "a":
            turns.submit("r", NORMAL, 1, "c")  # somebody has heard, and asks again
            assert started == ["a"]

    turns: Turns[str] = Turns(start, window=1, most=10, most_per_runner=10)
    turns.submit("r", NORMAL, 1, "a")
    assert started == ["a", "c"]
    turns.submit("r", NORMAL, 1, "b")
    assert started == ["a", "c", "b"]
    assert turns.waiting == 0


def test_one_signature_waits_for_a_few_of_a_flood_only() -> None:
    signer = Signer(window=4)
    for number in range(2000):
        signer.turns.submit("flood", NORMAL, 1, f"flood{number}")
    signer.turns.submit("single", NORMAL, 1, "single")
    signer.finish(2000)
    assert signer.started.index("single") <= 5


def test_runners_take_turns() -> None:
    signer = Signer(window=1)
    for runner in "abc":
        for number in range(3):
            signer.turns.submit(runner, NORMAL, 1, f"{runner}{number}")
    signer.finish(9)
    assert signer.started == ["a0", "a1", "b0", "c0", "a2", "b1", "c1", "b2", "c2"]


def test_urgent_work_overtakes_and_bulk_still_moves() -> None:
    signer = Signer(window=1)
    for number in range(40):
        signer.turns.submit("rebuild", Priority.BULK, 1, f"bulk{number}")
    for number in range(60):
        signer.turns.submit("repo", Priority.URGENT, 1, f"urgent{number}")
    signer.finish(40)
    assert signer.started[1] == "urgent0"
    assert 2 <= sum(item.startswith("bulk") for item in signer.started[1:]) <= 4


def test_what_does_not_fit_is_refused_at_once() -> None:
    signer = Signer(window=1, most=5, most_per_runner=3)
    for number in range(4):
        signer.turns.submit("a", NORMAL, 1, f"a{number}")
    with pytest.raises(LimitedError, match="runner a has too many") as refused:
        signer.turns.submit("a", Priority.URGENT, 1, "a4")
    assert refused.value.code == "queue_full"
    assert refused.value.retry_after_ms > 0
    signer.turns.submit("b", NORMAL, 1, "b0")
    signer.turns.submit("b", NORMAL, 1, "b1")
    with pytest.raises(LimitedError, match="there are too many"):
        signer.turns.submit("c", NORMAL, 1, "c0")


def test_who_has_little_waiting_finds_room_also_in_a_full_queue() -> None:
    started: list[str] = []
    turns: Turns[str] = Turns(started.append, window=1, most=6, most_per_runner=3, always=2)
    turns.submit("a", NORMAL, 1, "now")
    for runner in "ab":
        for number in range(3):
            turns.submit(runner, NORMAL, 1, f"{runner}{number}")
    for number in range(2):
        turns.submit("c", Priority.URGENT, 1, f"c{number}")
    for runner, words in (("a", "runner a has too many"), ("c", "there are too many")):
        with pytest.raises(LimitedError, match=words):
            turns.submit(runner, Priority.URGENT, 1, "too many")
    turns.done(1)
    assert started == ["now", "c0"]


def test_who_waits_in_vain_is_taken_out() -> None:
    signer = Signer(window=1)
    for number in range(4):
        signer.turns.submit("a", NORMAL, 1, f"a{number}")
    assert signer.turns.remove(lambda item: item != "a2") == ["a1", "a3"]
    assert signer.turns.waiting == 1
    signer.finish(3)
    assert signer.started == ["a0", "a2"]


def test_whose_time_ends_while_others_are_taken_out_keeps_its_turn_until_the_next_look() -> None:
    signer = Signer(window=1)
    for item in ("now", "revoked", "expiring"):
        signer.turns.submit("a", NORMAL, 1, item)
    seen: list[str] = []

    def is_over(item: str) -> bool:
        seen.append(item)
        return item == "revoked" or seen.count(item) > 1

    assert signer.turns.remove(is_over) == ["revoked"]
    assert signer.turns.waiting == 1
    signer.finish(2)
    assert signer.started == ["now", "expiring"]


def test_heavy_items_leave_less_room() -> None:
    signer = Signer(window=4)
    for number in range(4):
        signer.turns.submit("a", NORMAL, 2, f"a{number}")
    assert signer.started == ["a0", "a1"]


def test_an_item_that_ends_while_it_starts_does_not_stop_the_queue() -> None:
    started: list[int] = []

    def start(item: int) -> None:
        started.append(item)
        turns.done(1)

    turns: Turns[int] = Turns(start, window=1, most=10_000, most_per_runner=10_000)
    for number in range(3000):
        turns.submit("a", NORMAL, 1, number)
    assert started == list(range(3000))


def test_what_could_not_be_started_takes_no_room() -> None:
    started: list[str] = []

    def start(item: str) -> None:
        if item == "bad":
            raise LookupError(item)
        started.append(item)

    turns: Turns[str] = Turns(start, window=1, most=10, most_per_runner=10)
    for _ in range(3):
        with pytest.raises(LookupError):
            turns.submit("a", NORMAL, 1, "bad")
    turns.submit("a", NORMAL, 1, "good")
    assert started == ["good"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Priority), st.integers(1, 8)), max_size=60),
    st.integers(1, 16),
)
def test_everybody_gets_exactly_one_turn(asked: list[tuple[str, Priority, int]], window: int) -> None:
    at_signer: list[int] = []
    started: list[int] = []

    def start(item: int) -> None:
        started.append(item)
        at_signer.append(item)
        # Only the last one started may exceed the window.
        assert sum(asked[one][2] for one in at_signer[:-1]) < window

    turns: Turns[int] = Turns(start, window=window, most=1000, most_per_runner=1000)
    for number, (runner, priority, weight) in enumerate(asked):
        turns.submit(runner, priority, weight, number)
    while at_signer:
        turns.done(asked[at_signer.pop(0)][2])
    assert sorted(started) == list(range(len(asked)))
    assert turns.waiting == 0
