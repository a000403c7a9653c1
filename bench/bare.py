"""The bare trio program that the relay is measured against: import, listen on a Unix socket, answer each line.

usage: python -I bare.py SOCKET          binds it, unless it was passed as systemd passes sockets
"""

import os
import socket
import sys

import trio


async def _answer(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(b"OK\n")
        async for _ in stream:
            await stream.send_all(b"OK\n")


async def _serve(path: str) -> None:
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        listening = trio.socket.fromfd(3, socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        listening = trio.socket.socket(socket.AF_UNIX)
        await listening.bind(path)
        listening.listen(1024)
    async with trio.open_nursery() as nursery:
        await trio.serve_listeners(_answer, [trio.SocketListener(listening)], handler_nursery=nursery)


if __name__ == "__main__":
    os.umask(0o077)
    trio.run(_serve, sys.argv[1])
