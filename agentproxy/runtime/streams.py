"""A stream of bytes as a stream of frames, made for many small messages in flight.

What arrived together is handed over together. A lone message leaves before `send_soon` returns; what follows it
closely goes out in one write: under load the cost of a system call (and of a TLS record) is shared by all messages
that are ready.
"""

import time

import trio

from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.frames import FrameReader, encode_frame
from agentproxy.runtime.directstream import DirectStream
from agentproxy.runtime.tlscontext import explain
from agentproxy.runtime.tlsstream import TlsStream

__all__ = ["EndOfStream", "FramedStream"]

MAX_UNSENT = 4 * 1024 * 1024  # bytes; some 6000 answers for a peer that does not read, then it is cut off
# For all that is written at once, at most MAX_UNSENT: a peer that has not taken it by then is gone, too slow to be of
# use, or holds our memory on purpose, perhaps byte by byte.
WRITE_SECONDS = 20.0
GATHER_SECONDS = 0.00005  # longer, and whoever waits for these messages has nothing to do meanwhile
# So much waits for a peer that reads slowly; who can, takes no more from it until less does. A hundred signatures, or
# the parts of four large certificates.
SLOW_UNSENT = 256 * 1024  # bytes
CLOSE_SECONDS = 2.0  # TLS wants to say goodbye; a peer that does not listen must not keep us


class EndOfStream(Exception):  # noqa: N818  an orderly end is not an error
    """The peer closed the stream after a whole frame."""


class FramedStream:
    """Payloads over a stream; one task reads, one runs the sender, anybody sends.

    Args:
        stream: TCP, TLS or Unix stream; closing the FramedStream closes it.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = DirectStream(stream.socket) if isinstance(stream, trio.SocketStream) else stream
        self._direct = self._stream if isinstance(self._stream, DirectStream | TlsStream) else None
        self._reader = FrameReader()
        self._unsent = bytearray()
        self._last_write = 0.0  # seconds
        self._writing = 0  # bytes that the sender has taken and not told of yet
        self._wake = trio.Event()
        self._written = trio.Event()
        self._ended = False

    async def receive(self) -> list[bytes]:
        """Wait for payloads: all that arrived whole, in order, at least one.

        Raises:
            EndOfStream: the peer closed the stream in good order.
            RemoteProtocolError: the stream broke, or the peer broke the rules of frames.
        """
        while True:
            try:
                untrusted = await self._stream.receive_some()
            except trio.BrokenResourceError as error:
                raise RemoteProtocolError(explain(error)) from error
            if not untrusted:
                if self._reader.is_empty:
                    raise EndOfStream
                raise RemoteProtocolError("the peer closed the connection in the middle of a frame")
            self._reader.receive_data(bytes(untrusted))
            payloads = self._whole_payloads()
            if payloads:
                return payloads

    def _whole_payloads(self) -> list[bytes]:
        payloads: list[bytes] = []
        while (payload := self._reader.next_payload()) is not None:
            payloads.append(payload)
        return payloads

    def send_soon(self, payload: bytes) -> None:
        """Send one payload (1 to MAX_PAYLOAD bytes), at once or by the sender's task.

        Raises:
            LocalProtocolError: an impossible payload, or `end_soon` was called before.
            RemoteProtocolError: the peer does not read what it asked for: more than MAX_UNSENT bytes wait.
        """
        if self._ended:
            raise LocalProtocolError("nothing can be sent after end_soon")
        frame = encode_frame(payload)
        if len(self._unsent) + len(frame) > MAX_UNSENT:
            raise RemoteProtocolError("the peer does not read its answers")
        if not self._unsent and self._write_now(frame):
            return
        self._unsent += frame
        self._wake.set()

    def _write_now(self, frame: bytes) -> bool:
        """Write a lone frame; False leaves it to the sender, also when the stream is broken, which the sender tells."""
        now = time.perf_counter()
        if self._direct is None or self._direct.unsent or now - self._last_write < GATHER_SECONDS:
            return False
        self._last_write = now
        try:
            if not self._direct.send_now(frame):
                self._wake.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    @property
    def is_behind(self) -> bool:
        """Whether more than SLOW_UNSENT bytes wait for a peer that reads slowly, or not at all."""
        return len(self._unsent) + self._writing > SLOW_UNSENT

    async def catch_up(self) -> None:
        """Wait until less waits; the sender's task must run, and ends a stream that takes nothing."""
        while self.is_behind:
            self._written = trio.Event()
            await self._written.wait()

    def end_soon(self) -> None:
        """Let `run_sender` return once everything is written; further sending is an error."""
        self._ended = True
        self._wake.set()

    async def run_sender(self) -> None:
        """Write what `send_soon` could not until `end_soon`; one task per stream runs this.

        Raises:
            RemoteProtocolError: the stream broke, or the peer had not taken one write after WRITE_SECONDS.
        """
        while True:
            if self._unsent or (self._direct is not None and self._direct.unsent):
                ready, self._unsent = self._unsent, bytearray()
                self._writing = len(ready)
                await self._write(ready)
                self._writing = 0
                self._written.set()
            elif self._ended:
                return
            else:
                # Nobody can append between this test and the wait: there is no await between them.
                self._wake = trio.Event()
                await self._wake.wait()

    async def _write(self, ready: bytearray) -> None:
        self._last_write = time.perf_counter()
        try:
            if self._direct is not None and self._direct.send_now(ready):
                return
            with trio.fail_after(WRITE_SECONDS):
                await (self._stream.send_all(ready) if self._direct is None else self._direct.flush())
        except trio.BrokenResourceError as error:
            raise RemoteProtocolError(explain(error)) from error
        except trio.TooSlowError as error:
            raise RemoteProtocolError(
                f"the peer did not read what was sent to it within {WRITE_SECONDS:.0f} s"
            ) from error

    async def aclose(self) -> None:
        """Close the stream, politely for at most CLOSE_SECONDS."""
        with trio.move_on_after(CLOSE_SECONDS):
            await self._stream.aclose()
