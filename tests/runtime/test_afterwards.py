import pytest
import trio
import trio.testing

from agentproxy.runtime.afterwards import DELAY_SECONDS, MOST, Afterwards


class Running:
    """What was done, and when."""

    def __init__(self) -> None:
        self.afterwards = Afterwards()
        self.done: list[tuple[object, float]] = []

    def put_off(self, name: object) -> None:
        self.afterwards.put_off(lambda: self.done.append((name, trio.current_time())))


async def test_pieces_are_done_together_a_moment_later_in_their_order(autojump_clock: trio.testing.MockClock) -> None:
    running = Running()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.afterwards.run)
        for round_ in range(3):
            await trio.sleep(1)
            began = trio.current_time()
            running.put_off("a")
            await trio.sleep(DELAY_SECONDS / 2)
            running.put_off("b")
            assert len(running.done) == 2 * round_
            await trio.sleep(DELAY_SECONDS)
            (first, at), (second, then) = running.done[-2:]
            assert (first, second, then) == ("a", "b", at)
            assert at == pytest.approx(began + DELAY_SECONDS)
        nursery.cancel_scope.cancel()


async def test_what_was_put_off_before_the_task_began_is_done_when_it_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    running = Running()
    running.put_off("early")
    await trio.sleep(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.afterwards.run)
        await trio.testing.wait_all_tasks_blocked()
        assert [name for name, _ in running.done] == ["early"]
        nursery.cancel_scope.cancel()


async def test_nothing_is_lost_at_the_end() -> None:
    running = Running()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.afterwards.run)
        await trio.testing.wait_all_tasks_blocked()
        running.put_off("last")
        nursery.cancel_scope.cancel()
    assert [name for name, _ in running.done] == ["last"]


async def test_what_others_put_off_while_they_end_is_not_lost_either() -> None:
    running = Running()

    async def last_words(number: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            running.put_off(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.afterwards.run)
        for number in range(50):
            nursery.start_soon(last_words, number)
        await trio.testing.wait_all_tasks_blocked()
        running.afterwards.put_off(lambda: running.put_off("by a piece"))
        nursery.cancel_scope.cancel()
    assert {name for name, _ in running.done} == {*range(50), "by a piece"}


async def test_a_crowd_does_not_pile_up() -> None:
    await trio.lowlevel.checkpoint()
    running = Running()
    for number in range(MOST):
        running.put_off(number)
    assert [name for name, _ in running.done] == list(range(MOST))


async def test_a_piece_that_fails_keeps_no_other_from_being_done(caplog: pytest.LogCaptureFixture) -> None:
    await trio.lowlevel.checkpoint()
    running = Running()
    running.afterwards.put_off(lambda: 1 // 0)
    running.put_off("next")
    running.afterwards.do()
    assert [name for name, _ in running.done] == ["next"]
    assert "ZeroDivisionError" in caplog.text
