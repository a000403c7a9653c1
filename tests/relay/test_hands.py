"""Threads that work for one event loop: each gets its own result, and nothing is forgotten."""

import functools
import gc
import threading
import weakref

import pytest
import trio
import trio.testing

from relay.sealed.hands import LOOK_SECONDS, hands


async def test_each_of_many_gets_its_own_result() -> None:
    results: dict[int, int] = {}
    async with hands(4) as made:

        async def ask(number: int) -> None:
            for _ in range(20):
                results[number] = await made.run(lambda: number * number)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, number)
    assert results == {number: number * number for number in range(50)}


async def test_an_error_comes_out_where_the_work_was_asked_for_and_the_thread_lives() -> None:
    def fail() -> None:
        raise ValueError("a fault")

    async with hands(1) as made:
        with pytest.raises(ValueError, match="a fault"):
            await made.run(fail)
        assert await made.run(lambda: 7) == 7


async def test_what_work_that_failed_held_is_let_go_with_its_error() -> None:
    """On a full disk each package fails with its header in memory, and the collector looks for cycles late."""

    class Header:
        """What the work held."""

    def fail(_: Header) -> None:
        raise ValueError("a fault")

    header = Header()
    held = weakref.ref(header)
    gc.disable()
    try:
        async with hands(1) as made:
            with pytest.raises(ValueError, match="a fault") as raised:
                await made.run(functools.partial(fail, header))
            del header, raised
            await made.run(lambda: None)  # the thread knows its last piece
            assert held() is None
    finally:
        gc.enable()


async def test_what_is_no_exception_comes_out_there_as_well() -> None:
    class Panic(BaseException):
        """As a library's in another language may be."""

    def fail() -> None:
        raise Panic

    async with hands(1) as made:
        with pytest.raises(Panic), trio.fail_after(60):
            await made.run(fail)
        assert await made.run(lambda: 7) == 7


async def test_as_many_work_at_once_as_there_are_and_none_is_left() -> None:
    before = threading.active_count()
    together = threading.Barrier(3)
    async with hands(3) as made:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(made.run, lambda: together.wait(30))
    assert threading.active_count() == before


async def test_work_that_has_begun_is_finished_when_its_asker_is_cancelled() -> None:
    begun, gate, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert gate.wait(30)
        done.set()

    async with hands(1) as made:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run, work)
            await trio.to_thread.run_sync(begun.wait, 30)
            nursery.cancel_scope.cancel()
            gate.set()
    assert done.is_set()


async def test_one_thread_does_it_all_while_nothing_waits_long(mock_clock: trio.testing.MockClock) -> None:
    by = set()
    async with hands(8) as made:
        for _ in range(10):
            by.add(await made.run(threading.get_ident))
            mock_clock.jump(2 * LOOK_SECONDS)
            await trio.testing.wait_all_tasks_blocked()
    assert len(by) == 1


async def test_what_takes_long_does_not_hold_up_the_rest(mock_clock: trio.testing.MockClock) -> None:
    gate = threading.Event()

    def wait() -> None:
        assert gate.wait(30), "the quick one waits behind this one"

    async with hands(2) as made, trio.open_nursery() as nursery:
        nursery.start_soon(made.run, wait)
        await trio.testing.wait_all_tasks_blocked()
        quick = trio.Event()

        async def ask() -> None:
            await made.run(lambda: None)
            quick.set()

        nursery.start_soon(ask)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(LOOK_SECONDS)
        await quick.wait()
        gate.set()


async def test_where_no_more_threads_can_be_had_those_that_are_there_do_it_all(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may have few processes, and each thread counts as one."""
    refused = threading.Event()

    class Last(threading.Thread):
        """What a host has no room for."""

        def start(self) -> None:
            refused.set()
            raise RuntimeError("can't start new thread")

    done: list[int] = []
    gate = threading.Event()

    async with hands(2) as made:
        monkeypatch.setattr(threading, "Thread", Last)

        async def ask(number: int) -> None:
            await made.run(lambda: gate.wait(30))
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(ask, number)
            try:
                for _ in range(3):
                    await trio.testing.wait_all_tasks_blocked()
                    mock_clock.jump(LOOK_SECONDS)
                await trio.testing.wait_all_tasks_blocked()
                assert refused.is_set()
            finally:
                gate.set()
    assert sorted(done) == [0, 1, 2]
