"""TLS over a `DirectStream`, with the same promise: what is written is encrypted and leaves before the call returns.

OpenSSL works on two buffers in memory. With TLS 1.3 nothing that we write can depend on what we have to read first, so
reading and writing need no lock between them.
"""

import contextlib
import ssl

import trio

from agentproxy.runtime.directstream import DirectStream
from agentproxy.runtime.tlscontext import tls_reason

__all__ = ["TlsStream"]

_READ_BYTES = 65_536
# To read at once from whom most of what came was no data: 64 KiB may hold 2400 changes of keys, which keep everybody
# else waiting for 20 ms, and their sender has many connections.
_FEW_BYTES = 1024
# Of answers to changes of keys (27 bytes each) that wait for a peer that does not take them: nobody else is as
# forgetful, and whoever asks for one after the other and reads nothing wants our memory.
_MOST_ANSWERS = 4096


class TlsStream(trio.abc.Stream):  # as DirectStream
    """One TLS connection, of either side; one task reads.

    Args:
        stream: connected; its socket is closed along with this one.
        context: TLS 1.3 only.
        server_hostname: for a client, the name that the server's certificate must have.

    Attributes:
        tls: what was agreed and who the peer is; nothing is read or written through it but here.
        transport: where the encrypted bytes go.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self.transport = DirectStream(stream.socket)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._is_drained = False  # nothing can be decrypted before more arrives: to ask OpenSSL costs an exception
        self._arrived = 0  # bytes, in one piece
        self._next_bytes: int | None = None  # to read; None: as many as the transport finds best
        self._answers = 0  # bytes
        self._is_whole = False  # between the handshake and an error: only then there is somebody to say goodbye to

    @property
    def unsent(self) -> int:
        """As in `DirectStream`."""
        return self.transport.unsent

    async def do_handshake(self) -> None:
        """Agree on keys and check certificates.

        Raises:
            trio.BrokenResourceError: from OpenSSL's reason, about which the other side has been told as far as its
                socket took it at once.
        """
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_encrypted()
                await self.flush()
                await self._receive_encrypted()
            except (ssl.SSLError, ssl.CertificateError) as error:
                self._send_encrypted()  # the alert
                raise trio.BrokenResourceError("the TLS handshake failed") from error
            else:
                break
        self._is_whole = True
        self._send_encrypted()
        await self.flush()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes: all that arrived together; empty when the other side said goodbye.

        Raises:
            trio.BrokenResourceError: the connection ended without that, or the peer broke the rules of TLS.
        """
        while True:
            if not self._is_drained:
                data, is_over = self._decrypted(max_bytes or _READ_BYTES)
                if data or is_over:
                    return data
            await self._receive_encrypted()

    def send_now(self, data: bytes | bytearray) -> bool:
        """As in `DirectStream`."""
        try:
            self.tls.write(data)
        except ssl.SSLError as error:
            raise self._failed(error) from error
        return self._send_encrypted()

    async def flush(self) -> None:
        """As in `DirectStream`."""
        await self.transport.flush()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As in `DirectStream`."""
        await trio.lowlevel.checkpoint()
        if not self.send_now(bytes(data)):
            await self.flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes something."""
        await self.transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Say goodbye, as far as the socket takes it at once, and close."""
        try:
            if self._is_whole:
                self._is_whole = False
                self._say_goodbye()
        finally:
            await self.transport.aclose()

    def _say_goodbye(self) -> None:
        # unwrap() fails: the other side's goodbye has not come, and we do not wait for it.
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._send_encrypted()

    def _decrypted(self, most: int) -> tuple[bytes, bool]:
        """What can be decrypted by now, and whether the other side said goodbye."""
        parts: list[bytes] = []
        is_over = False
        try:
            # As much as can come: OpenSSL's module sets aside what it is asked for.
            while part := self.tls.read(min(most, max(1, self._incoming.pending + self.tls.pending()))):
                parts.append(part)
                most -= len(part)
                self._is_drained = not (self._incoming.pending or self.tls.pending())
                if most <= 0 or self._is_drained:
                    break
            else:
                is_over = True
        except ssl.SSLWantReadError:
            self._is_drained = True
        except ssl.SSLError as error:
            if not parts:  # else the next call meets it again
                raise self._failed(error) from error
        if self._outgoing.pending:
            self._answer_change_of_keys()
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._next_bytes = None if 2 * len(data) >= self._arrived else _FEW_BYTES
        return data, is_over

    def _answer_change_of_keys(self) -> None:
        self._answers += self._outgoing.pending
        if self._send_encrypted():
            self._answers = 0
        elif self._answers > _MOST_ANSWERS:
            self._is_whole = False
            raise trio.BrokenResourceError("the peer asks for new keys again and again, and reads no answer")

    async def _receive_encrypted(self) -> None:
        data = await self.transport.receive_some(self._next_bytes)
        self._arrived = len(data)
        self._is_drained = False
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _send_encrypted(self) -> bool:
        return self.transport.send_now(self._outgoing.read())

    def _failed(self, error: ssl.SSLError) -> trio.BrokenResourceError:
        self._is_whole = False
        return trio.BrokenResourceError(f"TLS failed: {tls_reason(error)}")
