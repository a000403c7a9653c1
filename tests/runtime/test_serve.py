import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.runtime.openfiles import room_for
from agentproxy.runtime.serve import FULL_PAUSE_SECONDS, Arrivals, accept_forever, serve_until_stopped
from agentproxy.runtime.unixsocket import bind


class Daemon:
    """Serves until it is drained; `busy` keeps it from ending."""

    def __init__(self, *, busy: bool = False) -> None:
        self.started = trio.Event()
        self.drained = trio.Event()
        self.reloads = 0
        self.cancelled = False
        self._busy = busy

    async def serve(self) -> None:
        self.started.set()
        try:
            await self.drained.wait()
            if self._busy:
                await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled = True
            raise

    def reload(self) -> None:
        self.reloads += 1


async def run(daemon: Daemon) -> None:
    await serve_until_stopped(daemon.serve, drain=daemon.drained.set, drain_seconds=30, reload=daemon.reload)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_what_is_in_flight_finish(number: signal.Signals) -> None:
    daemon = Daemon()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, daemon)
            await daemon.started.wait()
            os.kill(os.getpid(), number)
    assert daemon.drained.is_set()
    assert not daemon.cancelled


async def test_what_does_not_finish_in_time_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    daemon = Daemon(busy=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, daemon)
        await daemon.started.wait()
        began = trio.current_time()
        os.kill(os.getpid(), signal.SIGTERM)
    assert daemon.cancelled
    assert trio.current_time() - began == pytest.approx(30)


async def test_a_second_signal_ends_at_once() -> None:
    daemon = Daemon(busy=True)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, daemon)
            await daemon.started.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await daemon.drained.wait()
            os.kill(os.getpid(), signal.SIGTERM)
    assert daemon.cancelled


async def test_hangup_reloads_and_goes_on_serving() -> None:
    daemon = Daemon()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, daemon)
            await daemon.started.wait()
            os.kill(os.getpid(), signal.SIGHUP)
            while not daemon.reloads:
                await trio.testing.wait_all_tasks_blocked()
            assert not daemon.drained.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
    assert daemon.reloads == 1


async def test_a_daemon_that_ends_by_itself_is_not_waited_for() -> None:
    daemon = Daemon()
    daemon.drained.set()
    with trio.fail_after(5):
        await run(daemon)


@pytest.fixture(name="path")
def short_path() -> object:
    with tempfile.TemporaryDirectory(prefix="bo") as name:
        yield Path(name) / "s"


async def test_a_connection_that_fails_takes_no_other_down(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        if await stream.receive_some() == b"bad":
            raise RuntimeError("a bug")
        await stream.send_all(b"fine")

    with trio.fail_after(5):
        async with bind(path, 0o600) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, handle, 10)
            for sent, answer in ((b"bad", b""), (b"good", b"fine")):
                async with await trio.open_unix_socket(str(path)) as client:
                    await client.send_all(sent)
                    assert await client.receive_some() == answer
            nursery.cancel_scope.cancel()
    assert "a connection ended by an error of ours" in caplog.text
    assert "RuntimeError: a bug" in caplog.text


async def test_one_more_than_allowed_waits_until_another_leaves(path: Path) -> None:
    served: list[trio.SocketStream] = []

    async def handle(stream: trio.SocketStream) -> None:
        served.append(stream)
        await stream.send_all(b"hello")
        await stream.receive_some()

    with trio.fail_after(5):
        async with bind(path, 0o600) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, handle, 2)
            clients = [await trio.open_unix_socket(str(path)) for _ in range(3)]
            for client in clients[:2]:
                assert await client.receive_some() == b"hello"
            await trio.testing.wait_all_tasks_blocked()
            assert len(served) == 2
            await clients[0].aclose()
            assert await clients[2].receive_some() == b"hello"
            for client in clients[1:]:
                await client.aclose()
            nursery.cancel_scope.cancel()


class FullListener(trio.abc.Listener[trio.SocketStream]):
    """Out of descriptors twice, as the kernel says it, then one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._answers: list[OSError | trio.SocketStream] = [
            OSError(errno.EMFILE, "Too many open files"),
            OSError(errno.ENFILE, "Too many open files in system"),
            stream,
        ]

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        if not self._answers:
            await trio.sleep_forever()
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_running_out_of_descriptors_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    one, other = socket.socketpair()
    listener = FullListener(trio.SocketStream(trio.socket.from_stdlib_socket(one)))
    done = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        await stream.send_all(b"x")
        done.set()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_forever, listener, handle, 1)
        await done.wait()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began == pytest.approx(2 * FULL_PAUSE_SECONDS)
    other.close()


async def greet(stream: trio.SocketStream) -> None:
    """Serve a client until it hangs up."""
    await stream.send_all(b"hello")
    await stream.receive_some()


async def test_what_came_before_the_stop_is_finished_and_what_comes_after_waits_for_the_next(path: Path) -> None:
    stop = trio.Event()
    with trio.fail_after(5):
        async with bind(path, 0o600) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(Arrivals([(listener, greet, 10)]).serve, stop, None)
            before = await trio.open_unix_socket(str(path))
            assert await before.receive_some() == b"hello"
            stop.set()
            await trio.testing.wait_all_tasks_blocked()
            after = await trio.open_unix_socket(str(path))
            await trio.testing.wait_all_tasks_blocked()
            await before.aclose()
            await trio.testing.wait_all_tasks_blocked()
            async with after, trio.open_nursery() as second:
                second.start_soon(Arrivals([(listener, greet, 10)]).serve, trio.Event(), None)
                assert await after.receive_some() == b"hello"
                second.cancel_scope.cancel()


async def test_it_ends_when_nobody_came_for_so_long_and_not_before(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def visit(until: float) -> None:
        async with await trio.open_unix_socket(str(path)) as client:
            assert await client.receive_some() == b"hello"
            await trio.sleep_until(until)

    began = trio.current_time()
    async with bind(path, 0o600) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(visit, began + 95)
        await Arrivals([(listener, greet, 10)]).serve(trio.Event(), 30.0)
    assert trio.current_time() - began == pytest.approx(125, abs=1)


async def test_it_does_not_end_while_there_is_something_to_do(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    async with bind(path, 0o600) as listener:
        await Arrivals([(listener, greet, 10)], lambda: trio.current_time() < began + 200).serve(trio.Event(), 30.0)
    assert trio.current_time() - began == pytest.approx(210, abs=31)


@pytest.mark.parametrize("sooner", [0.0, 0.001, -0.001])
async def test_whoever_comes_at_the_very_moment_of_an_idle_end_is_served_by_it_or_by_the_next(
    path: Path, autojump_clock: trio.testing.MockClock, sooner: float
) -> None:
    greeted = []

    async def visit() -> None:
        await trio.sleep(30.0 - sooner)
        async with await trio.open_unix_socket(str(path)) as client:
            greeted.append(await client.receive_some())

    async with bind(path, 0o600) as listener, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(visit)
        await Arrivals([(listener, greet, 10)]).serve(trio.Event(), 30.0)
        await Arrivals([(listener, greet, 10)]).serve(trio.Event(), 30.0)
    assert greeted == [b"hello"] * 20


async def test_a_crowd_at_one_entrance_leaves_the_other_open(path: Path) -> None:
    other = path.with_name("other")
    stop = trio.Event()
    with trio.fail_after(5):
        async with bind(path, 0o600) as one, bind(other, 0o600) as two, trio.open_nursery() as nursery:
            nursery.start_soon(Arrivals([(one, greet, 2), (two, greet, 2)]).serve, stop, None)
            crowd = [await trio.open_unix_socket(str(path)) for _ in range(5)]
            async with await trio.open_unix_socket(str(other)) as client:
                assert await client.receive_some() == b"hello"
            for each in crowd:
                await each.aclose()
            stop.set()


@pytest.fixture
def limit() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_room_for_a_crowd_is_made_as_far_as_the_system_allows(limit: tuple[int, int]) -> None:
    _, hard = limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    assert room_for(2000) == 2000
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 2000 + 64
    assert room_for(hard) == hard - 64
    assert room_for(10) == 10


def test_what_is_loaded_at_the_start_is_left_alone_by_collections() -> None:
    code = (
        "import gc\n"
        "from agentproxy.runtime.serve import COLLECTIONS, keep_what_is_loaded\n"
        "keep_what_is_loaded()\n"
        "assert gc.get_threshold() == COLLECTIONS and gc.get_freeze_count() > 10_000\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)  # it is for the whole process


def test_what_is_loaded_can_be_kept_without_looking_through_it() -> None:
    code = (
        "import gc, weakref\n"
        "from agentproxy.runtime.serve import keep_what_is_loaded\n"
        "class Cycle:\n"
        "    def __init__(self): self.me = self\n"
        "gc.disable()\n"
        "kept = weakref.ref(Cycle())\n"
        "keep_what_is_loaded(collect=False)\n"
        "assert kept() is not None and gc.collect() == 0 and kept() is not None\n"
        "found = weakref.ref(Cycle())\n"
        "keep_what_is_loaded()\n"
        "assert found() is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_cycles_are_found_before_they_are_many() -> None:
    code = (
        "import gc\n"
        "from agentproxy.runtime.serve import keep_what_is_loaded\n"
        "class Cycle:\n"
        "    def __init__(self): self.me = self\n"
        "keep_what_is_loaded()\n"
        "most = 0\n"
        "living = []\n"
        "for number in range(200_000):\n"
        "    living = [*living[-100:], Cycle()]\n"  # middle-aged before they die
        "    if number % 5_000 == 0: most = max(most, sum(type(one) is Cycle for one in gc.get_objects()))\n"
        "assert most < 60_000, most\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
