"""A TCP proxy that delays every byte, each way by half a round trip, and limits nothing else.

usage: python -m bench.delayproxy HOST:PORT MILLISECONDS…      one port for each round trip; ends with its input
"""

import functools
import json
import math
import sys

import trio

_READ_BYTES = 65536


async def _carry(source: trio.SocketStream, sink: trio.SocketStream, seconds: float) -> None:
    send, receive = trio.open_memory_channel[tuple[float, bytes]](math.inf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_deliver, receive, sink)
        async with send:
            while data := await source.receive_some(_READ_BYTES):
                await send.send((trio.current_time() + seconds, data))


async def _deliver(receive: trio.MemoryReceiveChannel[tuple[float, bytes]], sink: trio.SocketStream) -> None:
    async for due, data in receive:
        await trio.sleep_until(due)
        await sink.send_all(data)
    await sink.send_eof()


async def _serve(host: str, port: int, milliseconds: float, near: trio.SocketStream) -> None:
    seconds = milliseconds / 2000
    far = await trio.open_tcp_stream(host, port)
    try:
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(_carry, near, far, seconds)
            nursery.start_soon(_carry, far, near, seconds)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # one side was killed: the other hears it by the end of its stream


async def _run(target: str, delays: list[float]) -> None:
    host, _, port = target.rpartition(":")
    async with trio.open_nursery() as nursery:
        ports = []
        for delay in delays:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            ports.append(listener.socket.getsockname()[1])
            nursery.start_soon(trio.serve_listeners, functools.partial(_serve, host, int(port), delay), [listener])
        print(json.dumps(ports), flush=True)
        await trio.to_thread.run_sync(sys.stdin.buffer.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_run, sys.argv[1], [float(word) for word in sys.argv[2:]])
