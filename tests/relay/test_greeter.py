"""Whoever connects is greeted before anything else happens."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agentproxy.runtime.unixsocket import bind
from relay.greeter import Greeter
from relay.session import Session

SECONDS = 10


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bo") as name:
        yield Path(name) / "s"


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    client.settimeout(SECONDS)
    return client


async def test_the_greeting_is_there_when_the_connection_is(path: Path) -> None:
    with trio.fail_after(SECONDS):
        async with Greeter(bind(path, 0o600)) as greeter:
            for _ in range(2):
                with connected(path) as client:
                    async with await greeter.accept() as stream:
                        assert client.recv(100) == Session.greeting
                        await stream.send_all(b"more")
                        assert client.recv(100) == b"more"


async def test_who_left_at_once_is_found_out_by_reading(path: Path) -> None:
    with trio.fail_after(SECONDS):
        async with Greeter(bind(path, 0o600)) as greeter:
            connected(path).close()
            async with await greeter.accept() as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.send_all(b"more")


async def test_two_that_listen_at_one_socket_share_who_comes(path: Path) -> None:
    async with Greeter(bind(path, 0o600)) as greeter:
        served: list[bytes] = []

        async def serve() -> None:
            async with await greeter.accept() as stream:
                served.append(await stream.receive_some())

        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                with connected(path) as client, connected(path) as other:
                    nursery.start_soon(serve)
                    await trio.testing.wait_all_tasks_blocked()
                    assert client.recv(100) == Session.greeting
                    nursery.start_soon(serve)
                    await trio.testing.wait_all_tasks_blocked()
                    assert other.recv(100) == Session.greeting
                    client.sendall(b"one")
                    other.sendall(b"two")
        assert sorted(served) == [b"one", b"two"]


async def test_it_can_be_closed_while_somebody_waits(path: Path) -> None:
    greeter = Greeter(bind(path, 0o600))

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await greeter.accept()

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await greeter.aclose()


async def test_nobody_can_come_to_one_that_is_closed(path: Path) -> None:
    greeter = Greeter(bind(path, 0o600))
    await greeter.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await greeter.accept()


async def test_without_a_greeting_the_other_side_speaks_first(path: Path) -> None:
    with trio.fail_after(SECONDS):
        async with Greeter(bind(path, 0o600), greeting=b"") as greeter:
            with connected(path) as client:
                async with await greeter.accept() as stream:
                    client.sendall(b"question")
                    assert await stream.receive_some() == b"question"
                    await stream.send_all(b"answer")
                    assert client.recv(100) == b"answer"
