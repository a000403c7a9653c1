"""A socket for gpg that greets whoever comes in the same moment.

gpg does nothing before it is greeted, and a connection's own task begins in the event loop's next round only.
"""

import contextlib
import os
import socket

import trio

from relay.session import Session

__all__ = ["Greeter"]


class Greeter(trio.abc.Listener[trio.SocketStream]):  # as trio's own, wherever that may go
    """A listener whose connections have had the session's greeting.

    Args:
        listener: where they come from; closed along with this one.
    """

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener

    async def accept(self) -> trio.SocketStream:
        """Wait for the next connection.

        Raises:
            OSError: there is no room for it, as with trio's own.
            trio.ClosedResourceError: the listener was closed.
        """
        while True:
            # Without a first attempt: mostly nobody is there yet. trio's own accept also lets others run behind it.
            await trio.lowlevel.wait_readable(self._listener.socket)
            try:
                connected = self._accepted()
            except (BlockingIOError, ConnectionAbortedError):
                continue  # another process that listens here has it, or it has gone
            # Who is gone already cannot be greeted, which is found out by reading.
            with contextlib.suppress(OSError):
                os.write(connected.fileno(), Session.greeting)
            return trio.SocketStream(trio.socket.from_stdlib_socket(connected))

    def _accepted(self) -> socket.socket:
        listening = socket.socket(fileno=self._listener.socket.fileno())
        try:
            connected, _ = listening.accept()
        finally:
            listening.detach()
        connected.setblocking(False)  # noqa: FBT003  the socket module's own signature
        return connected

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()
