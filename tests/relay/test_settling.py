"""Names are on the disk before anybody is told of them, and many share one fsync."""

import errno

import pytest
import trio
import trio.testing

from relay.sealed.settling import GATHER_SECONDS, Settling

HERE, THERE = "here", "there"


class Disk:
    """Keeps the directories that were brought to it."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.is_broken = False
        self.gate = trio.Event()
        self.gate.set()

    async def sync(self, directory: str) -> None:
        self.synced.append(directory)
        await self.gate.wait()
        if self.is_broken:
            raise OSError(errno.EIO, "a fault")


async def file_in(settling: Settling, directory: str, done: list[str] | None = None) -> None:
    with settling.under_way():
        await trio.testing.wait_all_tasks_blocked()
        await settling.settled(directory)
        if done is not None:
            done.append(directory)


async def test_files_that_come_together_share_one_fsync_of_each_directory(mock_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    settling = Settling(disk.sync)
    async with trio.open_nursery() as nursery:
        for directory in [HERE] * 8 + [THERE] * 7:
            nursery.start_soon(file_in, settling, directory)
    assert sorted(disk.synced) == [HERE, THERE]
    assert mock_clock.current_time() == 0


async def test_a_lone_file_waits_for_no_other(mock_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    settling = Settling(disk.sync)
    await file_in(settling, HERE)
    await file_in(settling, HERE)
    assert disk.synced == [HERE, HERE]
    assert mock_clock.current_time() == 0


async def test_the_last_file_does_not_wait_for_one_that_failed(mock_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    settling = Settling(disk.sync)
    async with trio.open_nursery() as nursery:
        with settling.under_way():
            nursery.start_soon(file_in, settling, HERE)
            for _ in range(2):
                await trio.testing.wait_all_tasks_blocked()
            assert disk.synced == []
    assert disk.synced == [HERE]


async def test_a_file_waits_for_slow_ones_only_a_moment(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    settling = Settling(disk.sync)
    with settling.under_way():  # for its signature, say
        await file_in(settling, HERE)
    assert disk.synced == [HERE]
    assert autojump_clock.current_time() == pytest.approx(GATHER_SECONDS)


async def test_who_comes_while_the_disk_works_gets_an_fsync_of_its_own(mock_clock: trio.testing.MockClock) -> None:
    disk, done = Disk(), list[str]()
    disk.gate = trio.Event()
    settling = Settling(disk.sync)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file_in, settling, HERE, done)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(file_in, settling, HERE, done)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(GATHER_SECONDS)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert disk.synced == [HERE, HERE]
        assert done == []
        disk.gate.set()
    assert done == [HERE, HERE]


async def test_a_fault_of_the_disk_is_told_to_all_who_waited_for_it() -> None:
    disk, told = Disk(), list[str]()
    disk.is_broken = True
    settling = Settling(disk.sync)

    async def settle() -> None:
        try:
            await file_in(settling, HERE)
        except OSError as error:
            told.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(settle)
    assert told == [f"[Errno {errno.EIO}] a fault"] * 3


async def test_a_directory_that_cannot_be_brought_to_the_disk_is_no_other_ones_problem() -> None:
    told: list[str] = []

    async def sync(directory: str) -> None:
        await trio.lowlevel.checkpoint()
        if directory == THERE:
            raise OSError(errno.EACCES, "not this one")

    settling = Settling(sync)

    async def settle(directory: str) -> None:
        try:
            await file_in(settling, directory, told)
        except OSError as error:
            told.append(str(error))

    async with trio.open_nursery() as nursery:
        for directory in (HERE, THERE, "elsewhere"):
            nursery.start_soon(settle, directory)
    assert sorted(told) == [f"[Errno {errno.EACCES}] not this one", "elsewhere", HERE]


async def test_who_is_cancelled_while_waiting_for_others_leaves_the_next_ones_their_fsync(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk, done = Disk(), list[str]()
    settling = Settling(disk.sync)
    with trio.move_on_after(GATHER_SECONDS / 2), settling.under_way():
        await file_in(settling, HERE)
    assert disk.synced == []
    await file_in(settling, HERE, done)
    assert disk.synced == done == [HERE]
