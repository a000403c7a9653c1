import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.frames import encode_frame
from agentproxy.runtime.directstream import DirectStream
from agentproxy.runtime.streams import MAX_UNSENT, EndOfStream, FramedStream

MUCH = 4 * 1024 * 1024  # bytes; no socket buffers so much


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[trio.SocketStream, socket.socket]]:
    """Our end, and the raw other one, which never waits."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
        with theirs:
            yield stream, theirs


async def read_all(theirs: socket.socket, size: int) -> bytes:
    received = b""
    with trio.fail_after(20):
        while len(received) < size:
            await trio.lowlevel.wait_readable(theirs)
            received += theirs.recv(1 << 20)
    return received


async def send_one_by_one(stream: FramedStream, size: int) -> None:
    for _ in range(size // 60_000):
        stream.send_soon(bytes(60_000))
        await trio.testing.wait_all_tasks_blocked(0.0003)


async def test_a_lone_message_has_left_when_the_call_returns() -> None:
    async with connected() as (ours, theirs):
        FramedStream(ours).send_soon(b"question")
        assert theirs.recv(100) == encode_frame(b"question")


async def test_what_follows_closely_leaves_together_and_in_order() -> None:
    async with connected() as (ours, theirs):
        stream = FramedStream(ours)
        frames = [encode_frame(b"%d" % number) for number in range(100)]
        for number in range(100):
            stream.send_soon(b"%d" % number)
        stream.end_soon()
        await stream.run_sender()
        assert await read_all(theirs, len(b"".join(frames))) == b"".join(frames)


async def test_a_peer_that_does_not_read_gets_everything_once_it_does() -> None:
    async with connected() as (ours, theirs):
        stream = FramedStream(ours)
        frames = b"".join(encode_frame(bytes([number]) * 65_000) for number in range(60))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run_sender)
            for number in range(60):
                stream.send_soon(bytes([number]) * 65_000)
                await trio.lowlevel.checkpoint()
            stream.end_soon()
            assert await read_all(theirs, len(frames)) == frames


async def test_a_peer_that_never_reads_is_cut_off_also_when_messages_come_one_by_one() -> None:
    async with connected() as (ours, _):
        stream = FramedStream(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run_sender)
            with pytest.raises(RemoteProtocolError, match="does not read"):
                await send_one_by_one(stream, MAX_UNSENT * 2)
            nursery.cancel_scope.cancel()


async def test_what_the_kernel_does_not_take_goes_out_by_flush_before_what_comes_later() -> None:
    async with connected() as (ours, theirs):
        stream = DirectStream(ours.socket)
        assert not stream.send_now(b"a" * MUCH)
        assert not stream.send_now(b"b")
        assert stream.unsent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.flush)
            assert await read_all(theirs, MUCH + 1) == b"a" * MUCH + b"b"
        assert not stream.unsent
        assert stream.send_now(b"c")


async def test_a_peer_that_is_gone_is_told_by_the_sender_and_ends_the_reader() -> None:
    async with connected() as (ours, theirs):
        theirs.close()
        stream = FramedStream(ours)
        stream.send_soon(b"nobody hears this")
        with pytest.raises(RemoteProtocolError, match="Broken pipe"):
            await stream.run_sender()
        with pytest.raises(EndOfStream):
            await stream.receive()


async def test_closing_ends_who_waits_and_refuses_who_writes() -> None:
    async with connected() as (ours, _):
        stream = DirectStream(ours.socket)
        with pytest.RaisesGroup(trio.ClosedResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.receive_some)
                await trio.testing.wait_all_tasks_blocked()
                await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            stream.send_now(b"late")


@pytest.fixture
def plain() -> Iterator[tuple[DirectStream, socket.socket]]:
    """Our end as a socket of the standard library, which is ours to close, and the other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with theirs:
        yield DirectStream(ours), theirs
    ours.close()


async def test_a_plain_socket_is_closed_along_with_its_stream_and_ends_who_waits(
    plain: tuple[DirectStream, socket.socket],
) -> None:
    stream, theirs = plain
    with pytest.RaisesGroup(trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            stream.close()
    assert theirs.recv(100) == b""
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        stream.receive_within(0, 100)


async def test_a_closed_stream_does_not_touch_the_socket_that_got_its_number(
    plain: tuple[DirectStream, socket.socket],
) -> None:
    stream, _ = plain
    number = stream.socket.fileno()
    other, its_peer = socket.socketpair()
    with other, its_peer:
        stream.close()
        os.dup2(other.fileno(), number)
        try:
            its_peer.sendall(b"for somebody else")
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()
            with pytest.raises(trio.ClosedResourceError):
                stream.send_now(b"to nobody")
            await stream.aclose()
            assert os.read(number, 100) == b"for somebody else"
        finally:
            os.close(number)


async def test_half_a_stream_can_be_ended(plain: tuple[DirectStream, socket.socket]) -> None:
    stream, theirs = plain
    with trio.testing.assert_checkpoints():
        await stream.send_eof()
    assert theirs.recv(100) == b""
    theirs.sendall(b"more")
    assert await stream.receive_some() == b"more"
