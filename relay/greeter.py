"""A socket for gpg that greets whoever comes in the same moment.

gpg does nothing before it is greeted, and a connection's own task begins in the event loop's next round only.
"""

import contextlib
import errno
import os
import socket

import trio

from agentproxy.runtime.directstream import DirectStream
from relay.session import Session

__all__ = ["Greeter"]

# Another process that listens here has it, it has gone, or somebody (a security module) did not let it in.
_NOBODY = frozenset({errno.EAGAIN, errno.ECONNABORTED, errno.EPERM, errno.EPROTO})


class Greeter(trio.abc.Listener[DirectStream]):  # as trio's own, wherever that may go
    """A listener whose connections have had the session's greeting, or another.

    Args:
        listener: where they come from; closed along with this one.
        greeting: what they are told.
    """

    def __init__(self, listener: trio.SocketListener, greeting: bytes = Session.greeting) -> None:
        self._listener = listener
        self._greeting = greeting

    async def accept(self) -> DirectStream:
        """Wait for the next connection.

        Raises:
            OSError: there is no room for it, as with trio's own.
            trio.ClosedResourceError: the listener was closed.
        """
        while True:
            if self._listener.socket.fileno() < 0:
                raise trio.ClosedResourceError("this listener was closed here")
            # Without a first attempt: mostly nobody is there yet. trio's own accept also lets others run behind it.
            await trio.lowlevel.wait_readable(self._listener.socket)
            try:
                connected = self._accepted()
            except OSError as error:
                if error.errno in _NOBODY:
                    continue
                raise
            if self._greeting:
                # Who is gone already cannot be greeted, which is found out by reading.
                with contextlib.suppress(OSError):
                    os.write(connected.fileno(), self._greeting)
            return DirectStream(connected)

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
