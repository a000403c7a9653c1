import errno
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.runtime.wakefulness import DEVICE, STAY_SECONDS, Wakefulness
from tests.oracle.world import until

AWAKE, ASLEEP = 0, 2_000_000_000  # microseconds: the kernel's PM_QOS_CPU_LATENCY_DEFAULT_VALUE


@pytest.fixture(name="device")
def file_in_the_devices_place(tmp_path: Path) -> Path:
    """A file that keeps, one behind the other, what the device is told."""
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    return device


@pytest.fixture(name="driver")
def driver_of_a_guest(tmp_path: Path) -> Path:
    driver = tmp_path / "current_driver"
    driver.write_text("haltpoll\n")
    return driver


def told(device: Path) -> list[int]:
    return [number for (number,) in struct.iter_unpack("=i", device.read_bytes())]


@asynccontextmanager
async def running(wakefulness: Wakefulness) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakefulness.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def test_processors_stay_awake_for_a_moment_after_the_last_need(
    device: Path, driver: Path, autojump_clock: trio.testing.MockClock
) -> None:
    wakefulness = Wakefulness(device, driver)
    async with running(wakefulness):
        assert told(device) == []
        for round_ in range(1, 4):
            for _ in range(5):
                wakefulness.stay()
                await trio.sleep(STAY_SECONDS * 0.9)
                assert told(device) == [AWAKE, ASLEEP] * (round_ - 1) + [AWAKE]
            await trio.sleep(STAY_SECONDS * 0.2)
            assert told(device) == [AWAKE, ASLEEP] * round_
            await trio.sleep(60)
    assert told(device) == [AWAKE, ASLEEP] * 3


async def test_a_need_before_the_task_runs_ends_too(
    device: Path, driver: Path, autojump_clock: trio.testing.MockClock
) -> None:
    wakefulness = Wakefulness(device, driver)
    wakefulness.stay()
    await trio.sleep(1)
    async with running(wakefulness):
        await trio.testing.wait_all_tasks_blocked()
        assert told(device) == [AWAKE, ASLEEP]


async def test_the_request_ends_with_the_task_and_no_need_brings_it_back(device: Path, driver: Path) -> None:
    def is_open() -> bool:
        return any(entry.exists() and entry.samefile(device) for entry in Path("/proc/self/fd").iterdir())

    wakefulness = Wakefulness(device, driver)
    async with running(wakefulness):
        wakefulness.stay()
        assert is_open()
    assert not is_open()
    wakefulness.stay()
    assert told(device) == [AWAKE]


@pytest.mark.parametrize("said", ["intel_idle\n", "acpi_idle\n", "none\n", "", "\xff"])
async def test_elsewhere_nothing_is_asked_for(said: str, device: Path, driver: Path) -> None:
    driver.write_bytes(said.encode("latin-1"))
    wakefulness = Wakefulness(device, driver)
    async with running(wakefulness):
        wakefulness.stay()
    assert told(device) == []


async def test_a_kernel_without_any_of_it_is_served_as_well(tmp_path: Path, driver: Path) -> None:
    for device, drivers in ((tmp_path / "none", driver), (tmp_path / "none", tmp_path / "nor this")):
        wakefulness = Wakefulness(device, drivers)
        async with running(wakefulness):
            wakefulness.stay()
        assert not device.exists()


def test_whose_right_is_missing_says_so(
    device: Path, driver: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    refuse(monkeypatch, "open", errno.EACCES)
    Wakefulness(device, driver).stay()
    assert caplog.messages == [f"processors may sleep while a signature is under way: {device}: Permission denied"]


async def test_a_device_that_takes_nothing_is_left_alone(
    device: Path, driver: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wakefulness = Wakefulness(device, driver)
    refuse(monkeypatch, "write", errno.EIO)
    async with running(wakefulness):
        for _ in range(2):
            wakefulness.stay()
    assert caplog.messages == [f"processors may sleep from now on: {device}: Input/output error"]


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Let a call of the kernel's fail."""

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refused)


@pytest.mark.skipif(not os.access(DEVICE, os.R_OK | os.W_OK), reason=f"{DEVICE} is not there, or root's")
async def test_the_kernel_takes_what_we_say(driver: Path) -> None:
    """What the kernel tolerates now stands in the same file: the lowest that anybody asked for."""

    def tolerated() -> int:
        (number,) = struct.unpack("=i", DEVICE.read_bytes())
        return int(number)

    wakefulness = Wakefulness(DEVICE, driver)
    async with running(wakefulness):
        wakefulness.stay()
        assert tolerated() == AWAKE
        await until(lambda: tolerated() != AWAKE)  # daemons of other tests may be signing just now
