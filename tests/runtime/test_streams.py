import pytest
import trio
import trio.testing

from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.frames import MAX_PAYLOAD, encode_frame
from agentproxy.runtime.streams import MAX_UNSENT, WRITE_SECONDS, EndOfStream, FramedStream


async def test_what_arrived_together_is_received_together() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(encode_frame(b"one") + encode_frame(b"two") + encode_frame(b"three")[:5])
    stream = FramedStream(ours)
    assert await stream.receive() == [b"one", b"two"]
    await theirs.send_all(encode_frame(b"three")[5:])
    assert await stream.receive() == [b"three"]


async def test_a_frame_that_comes_byte_by_byte_is_received_once_and_whole() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    stream = FramedStream(ours)

    async def drip() -> None:
        for byte in encode_frame(b"payload"):
            await theirs.send_all(bytes([byte]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        assert await stream.receive() == [b"payload"]


async def test_the_end_after_a_whole_frame_is_an_end_and_inside_one_an_error() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(encode_frame(b"x"))
    await theirs.send_eof()
    stream = FramedStream(ours)
    assert await stream.receive() == [b"x"]
    with pytest.raises(EndOfStream):
        await stream.receive()
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(encode_frame(b"x")[:-1])
    await theirs.send_eof()
    with pytest.raises(RemoteProtocolError, match="in the middle of a frame"):
        await FramedStream(ours).receive()


async def test_a_length_that_is_too_big_is_refused_before_its_bytes_come() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all((MAX_PAYLOAD + 1).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError, match="announced 65537"):
        await FramedStream(ours).receive()


async def test_what_is_ready_leaves_in_one_write() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    writes: list[bytes] = []

    async def noted() -> None:
        await trio.lowlevel.checkpoint()
        writes.append(bytes(ours.send_stream.get_data_nowait()))
        theirs.receive_stream.put_data(writes[-1])

    ours.send_stream.send_all_hook = noted
    stream = FramedStream(ours)
    for number in range(3):
        stream.send_soon(b"%d" % number)
    stream.end_soon()
    await stream.run_sender()
    assert writes == [b"".join(encode_frame(b"%d" % number) for number in range(3))]


async def test_the_sender_wakes_for_every_later_payload_until_the_end() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream, peer = FramedStream(ours), FramedStream(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run_sender)
        for payload in (b"a", b"b"):
            await trio.testing.wait_all_tasks_blocked()
            stream.send_soon(payload)
            assert await peer.receive() == [payload]
        stream.end_soon()
    with pytest.raises(LocalProtocolError):
        stream.send_soon(b"late")
    await stream.aclose()
    with pytest.raises(EndOfStream):
        await peer.receive()


async def test_a_peer_that_does_not_read_is_cut_off_by_size_and_by_time(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.lockstep_stream_pair()
    stream = FramedStream(ours)
    for _ in range(MAX_UNSENT // MAX_PAYLOAD - 1):
        stream.send_soon(bytes(MAX_PAYLOAD))
    with pytest.raises(RemoteProtocolError, match="does not read"):
        stream.send_soon(bytes(MAX_PAYLOAD))
    began = trio.current_time()
    with pytest.raises(RemoteProtocolError, match="did not read what was sent"):
        await stream.run_sender()
    assert trio.current_time() - began == WRITE_SECONDS


async def test_a_broken_stream_is_the_peers_fault_on_both_sides() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = FramedStream(ours)
    stream.send_soon(b"x")

    async def broken() -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    ours.send_stream.send_all_hook = broken
    with pytest.raises(RemoteProtocolError, match="broke"):
        await stream.run_sender()
    await theirs.aclose()
    with pytest.raises(EndOfStream):
        await stream.receive()


async def test_closing_ends_a_waiting_reader() -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    stream = FramedStream(ours)
    with pytest.RaisesGroup(trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
