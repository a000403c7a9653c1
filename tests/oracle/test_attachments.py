"""The attach socket: who may bring streams, and what happens to those who bring something else."""

import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from agentproxy.oracle.config import AttachConfig
from agentproxy.oracle.daemon import Oracle
from agentproxy.protocol.attach_messages import FROM_ATTACHER, Attach
from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.frames import encode_frame
from agentproxy.protocol.messages import PROTOCOL_VERSION
from agentproxy.protocol.oracle_messages import Rejected, Welcome
from agentproxy.protocol.relay_messages import Hello
from agentproxy.runtime.streams import FramedStream
from tests.oracle.signerserver import FakeSigner
from tests.oracle.world import SECONDS, Client, Enrolled, World

ME = getpass.getuser()
Start = Callable[..., Awaitable[Path]]


@pytest.fixture
def start(world: World, signer: FakeSigner, nursery: trio.Nursery) -> Start:
    async def started(*users: str) -> Path:
        path = world.directory / "attach.sock"
        oracle = Oracle(replace(world.config, attach=AttachConfig(path, users)))
        nursery.start_soon(oracle.run)
        with trio.fail_after(SECONDS):
            await oracle.listening.wait()
        return path

    return started


@asynccontextmanager
async def attached(path: Path, first: bytes) -> AsyncIterator[Client]:
    stream = await trio.open_unix_socket(path)
    await stream.send_all(first)
    framed = FramedStream(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(framed.run_sender)
        yield Client(framed)
        nursery.cancel_scope.cancel()
    await framed.aclose()


def first_frame(runner: str, address: str = "192.0.2.1:40000") -> bytes:
    return encode_frame(FROM_ATTACHER.encode(Attach(runner, address)))


async def test_a_runner_comes_by_its_ssh_key_and_token(world: World, start: Start) -> None:
    a = world.enrol("a")
    path = await start(ME)
    async with attached(path, first_frame("a")) as client:
        client.send(Hello(PROTOCOL_VERSION, a.token, "test"))
        welcome = await client.receive()
    assert isinstance(welcome, Welcome)
    assert welcome.runner == "a"


async def test_a_token_of_another_runner_is_rejected(world: World, start: Start) -> None:
    _, b = world.enrol("a"), world.enrol("b")
    path = await start(ME)
    async with attached(path, first_frame("a")) as client:
        client.send(Hello(PROTOCOL_VERSION, b.token, "test"))
        answer = await client.receive()
    assert isinstance(answer, Rejected)
    assert answer.code is RejectionCode.TOKEN_OF_ANOTHER_RUNNER


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user of the system")
async def test_another_user_may_not_bring_streams(world: World, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    a: Enrolled = world.enrol("a")
    path = await start("nobody")
    stream = await trio.open_unix_socket(path)
    with trio.fail_after(SECONDS):
        with suppress(trio.BrokenResourceError):  # it may be closed before everything is written
            await stream.send_all(first_frame("a") + encode_frame(a.token.encode()))
            assert await stream.receive_some() == b""
    await stream.aclose()
    assert "not one of attach.users" in caplog.text


@pytest.mark.parametrize("garbage", [b"\0\0\0\0", b"\xff" * 64, encode_frame(b"{}"), encode_frame(b'{"tag":"hello"}')])
async def test_garbage_in_place_of_the_first_frame_ends_the_connection(
    world: World, start: Start, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = await start(ME)
    stream = await trio.open_unix_socket(path)
    await stream.send_all(garbage)
    with trio.fail_after(SECONDS):
        with suppress(trio.BrokenResourceError):  # bytes that nobody has read: the kernel resets
            assert await stream.receive_some() == b""
    await stream.aclose()
    assert "attach ended before its first frame" in caplog.text


def test_a_user_who_does_not_exist_stops_the_start(world: World) -> None:
    config = replace(world.config, attach=AttachConfig(world.directory / "attach.sock", ("no-such-user",)))
    with pytest.raises(ConfigError, match="there is no user no-such-user"):
        Oracle(config)
