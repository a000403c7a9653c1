"""A connected socket for many small messages: what is written leaves before the call returns.

trio's own stream switches tasks around each operation, and a signature has a dozen of them: on a processor that has
just woken up, each costs as much as the signature's arithmetic. Here reading waits once, and writing does not wait
unless the kernel's buffer is full.
"""

import errno
import os
import select
import socket

import trio

__all__ = ["DirectStream"]

# Python sets aside as much memory as is asked for before it knows how much there is, so we ask for little until there
# is much: from 64 KiB on, to give it back makes the C library tidy up.
LEAST_BYTES, MOST_BYTES = 4096, 65_536


class DirectStream(trio.abc.HalfCloseableStream):  # our one base class: wherever trio's streams go, this may go
    """A socket's bytes, both ways; one task reads.

    Args:
        connected: does not block. One of the standard library's need not be wrapped in trio's two, and tells its
            number, which each operation asks for, in half of the time.

    Attributes:
        socket: the same, for its options and addresses.
    """

    def __init__(self, connected: socket.socket | trio.socket.SocketType) -> None:
        self.socket = connected
        self._fileno = connected.fileno
        self._unsent = bytearray()
        self._next_bytes = LEAST_BYTES  # to ask for
        self._poll: select.poll | None = None

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet: `flush` waits for them."""
        return len(self._unsent)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes, as trio's streams do; empty at the end."""
        # Without a first attempt: mostly nothing is there yet, and asking the kernel twice costs more than waiting.
        while True:
            await trio.lowlevel.wait_readable(self._descriptor())
            size = max_bytes or self._next_bytes
            try:
                received = os.read(self._descriptor(), size)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _broken(error) from error
            if max_bytes is None:
                self._next_bytes = min(2 * size, MOST_BYTES) if len(received) == size else max(size // 2, LEAST_BYTES)
            return received

    def receive_within(self, milliseconds: int, max_bytes: int) -> bytes | None:
        """What arrives so soon that everybody can wait for it, empty at the end; None when nothing does.

        Raises:
            trio.BrokenResourceError: the connection broke.
        """
        descriptor = self._descriptor()
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLIN)
        if not self._poll.poll(milliseconds):
            return None
        try:
            return os.read(descriptor, max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _broken(error) from error

    def send_now(self, data: bytes | bytearray) -> bool:
        """Write; False when a part is left, which goes out before everything later once somebody awaits `flush`.

        Raises:
            trio.BrokenResourceError: the other side is gone.
        """
        if self._unsent:
            self._unsent += data
            return False
        sent = self._write(data)
        if sent == len(data):
            return True
        self._unsent += data[sent:]
        return False

    async def flush(self) -> None:
        """Wait until the kernel has taken everything; one task does.

        Raises:
            trio.BrokenResourceError: the other side is gone.
        """
        while self._unsent:
            await trio.lowlevel.wait_writable(self._descriptor())
            del self._unsent[: self._write(self._unsent)]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write, and wait if need be, as trio's streams do."""
        await trio.lowlevel.checkpoint()
        if not self.send_now(bytes(data)):
            await self.flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes something."""
        await trio.lowlevel.wait_writable(self._descriptor())

    async def send_eof(self) -> None:
        """Tell the other side that nothing more will come.

        Raises:
            trio.BrokenResourceError: the other side is gone.
        """
        await trio.lowlevel.checkpoint()
        await self.flush()
        self._descriptor()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:  # the other side has reset the connection, for example
            raise _broken(error) from error

    async def aclose(self) -> None:
        """As `close`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the socket; whoever waits for it gets trio.ClosedResourceError."""
        descriptor = self._fileno()
        if descriptor >= 0:
            trio.lowlevel.notify_closing(descriptor)
            self.socket.close()

    def _descriptor(self) -> int:
        # Asked for each time: the number of a socket that was closed may be another one's by now.
        descriptor = self._fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError("this socket was closed here")
        return descriptor

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._descriptor(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _broken(error) from error


def _broken(error: OSError) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"the connection broke: {errno.errorcode.get(error.errno or 0, error.strerror)}")
