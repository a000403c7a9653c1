"""Threads that share steps: each is done once, and what was begun is brought to an end."""

import threading
from collections import deque
from collections.abc import Callable

import pytest

from relay.sealed import crew as crew_module
from relay.sealed.crew import Crew

SECONDS = 60
Step = Callable[[], None]


class Steps:
    """Work that is known from the beginning."""

    def __init__(self, *steps: Step) -> None:
        self.left = deque(steps)
        self.under_way = 0
        self.was_given_up = threading.Event()
        self.crew = Crew(8, self)

    def next_step(self) -> Step | None:
        if not self.left:
            return None
        step = self.left.popleft()
        self.under_way += 1

        def do() -> None:
            try:
                step()
            finally:
                with self.crew.changed:
                    self.under_way -= 1

        return do

    def is_over(self) -> bool:
        return not self.left and not self.under_way

    def is_waiting(self) -> bool:
        return bool(self.left)

    def give_up(self) -> None:
        self.was_given_up.set()

    def run(self, is_interrupted: Callable[[], bool] = lambda: False) -> bool:
        return self.crew.run(is_interrupted)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "LOOK_SECONDS", 0.01)


def test_each_step_is_done_once_and_by_one_thread_while_all_are_quick() -> None:
    done: list[int] = []
    by: set[int] = set()

    def step(number: int) -> None:
        done.append(number)
        by.add(threading.get_ident())

    before = threading.active_count()
    assert Steps(*[lambda number=number: step(number) for number in range(1000)]).run()
    assert done == list(range(1000))
    assert len(by) == 1
    assert threading.active_count() == before


def test_as_many_work_at_once_as_there_may_be_where_steps_are_slow() -> None:
    together = threading.Barrier(8)  # one more would be left alone, and one less would wait for ever
    before = threading.active_count()
    assert Steps(*[lambda: together.wait(SECONDS)] * 16).run()  # type: ignore[list-item]
    assert threading.active_count() == before


def test_there_are_never_more_threads_than_there_may_be() -> None:
    together = threading.Barrier(3)
    before = threading.active_count()
    there: list[int] = []

    def step() -> None:
        together.wait(SECONDS)
        there.append(threading.active_count() - before)

    steps = Steps(*[step] * 30)
    steps.crew = Crew(3, steps)
    assert steps.run()
    assert max(there) == 3


def test_where_no_more_threads_can_be_had_those_that_are_there_do_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have few processes, and each thread counts as one."""
    refused = threading.Event()
    done: list[int] = []

    class Last(threading.Thread):
        """What a host has no room for."""

        def start(self) -> None:
            refused.set()
            raise RuntimeError("can't start new thread")

    def first() -> None:
        monkeypatch.setattr(threading, "Thread", Last)
        assert refused.wait(SECONDS)

    assert Steps(first, *[lambda: done.append(1)] * 3).run()
    assert done == [1] * 3


class Panic(BaseException):
    """As a library's in another language may be."""


@pytest.mark.parametrize("error", [ValueError("a fault"), Panic("a fault")])
def test_an_error_ends_the_run_and_comes_out(error: BaseException) -> None:
    done: list[int] = []

    def fail() -> None:
        raise error

    before = threading.active_count()
    with pytest.raises(type(error), match="a fault"):
        Steps(fail, lambda: done.append(1)).run()
    assert not done
    assert threading.active_count() == before


def test_the_first_of_several_errors_comes_out() -> None:
    def fail() -> None:
        steps.crew.fail(ValueError("the cause"))
        raise ValueError("what came of it")

    steps = Steps(fail)
    with pytest.raises(ValueError, match="the cause"):
        steps.run()


def test_an_error_from_elsewhere_ends_the_run_of_those_who_wait() -> None:
    steps = Steps()
    steps.under_way = 1  # nothing is to be done, and it is not over
    threading.Thread(target=steps.crew.fail, args=(ValueError("a fault"),)).start()
    with pytest.raises(ValueError, match="a fault"):
        steps.run()


def test_what_has_begun_is_finished_when_the_run_is_interrupted_and_nothing_else_begins() -> None:
    begun, done = threading.Event(), list[str]()

    def first() -> None:
        begun.set()
        assert steps.was_given_up.wait(SECONDS)
        assert steps.crew.is_given_up
        done.append("first")

    steps = Steps(first, lambda: done.append("second"))
    assert not steps.run(begun.is_set)
    assert done == ["first"]


def test_a_run_that_is_interrupted_in_its_last_step_is_no_whole_one() -> None:
    done: list[int] = []
    assert not Steps(lambda: done.append(1)).run(lambda: bool(done))


def test_who_waits_learns_of_what_another_one_did() -> None:
    """A step that can begin only behind the end of another."""
    done: list[str] = []
    gate = threading.Event()
    both = threading.Barrier(2)

    class Behind(Steps):
        """Its last step comes behind the others."""

        def next_step(self) -> Step | None:
            return None if len(self.left) == 1 and self.under_way else super().next_step()

    def slow() -> None:
        both.wait(SECONDS)
        assert gate.wait(SECONDS)
        done.append("slow")

    def quick() -> None:
        both.wait(SECONDS)
        done.append("quick")
        gate.set()

    assert Behind(slow, quick, lambda: done.append("last")).run()
    assert done == ["quick", "slow", "last"]
