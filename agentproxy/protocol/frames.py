"""Frames: 4-byte big-endian length, then that many bytes. The same on every stream of ours.

Bytes in, payloads out; who reads and writes them is the caller's business.
"""

from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["MAX_PAYLOAD", "FrameReader", "encode_frame"]

MAX_PAYLOAD = 65_536  # bytes; a sign request has about 600, a part of a certificate fits
_HEADER = 4


def encode_frame(payload: bytes) -> bytes:
    """Put the length before `payload` (1 to MAX_PAYLOAD bytes).

    Raises:
        LocalProtocolError: the payload is empty or too long.
    """
    if not 1 <= len(payload) <= MAX_PAYLOAD:
        raise LocalProtocolError(f"a frame holds 1 to {MAX_PAYLOAD} bytes, not {len(payload)}")
    return len(payload).to_bytes(_HEADER, "big") + payload


class FrameReader:
    """Collects bytes and gives out whole payloads, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, untrusted: bytes) -> None:
        """Take more bytes from the stream."""
        self._buffer += untrusted

    def next_payload(self) -> bytes | None:
        """Take the next whole payload; None asks for more bytes.

        Raises:
            RemoteProtocolError: the announced length is 0 or above MAX_PAYLOAD. It is raised as soon as the
                header is there, so that a peer cannot make us collect what we will refuse.
        """
        if len(self._buffer) < _HEADER:
            return None
        length = int.from_bytes(self._buffer[:_HEADER], "big")
        if not 1 <= length <= MAX_PAYLOAD:
            raise RemoteProtocolError(f"a frame holds 1 to {MAX_PAYLOAD} bytes, the peer announced {length}")
        end = _HEADER + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_HEADER:end])
        del self._buffer[:end]
        return payload

    @property
    def missing(self) -> int:
        """How many bytes may still be read without taking one of the frame behind the next."""
        have = len(self._buffer)
        if have < _HEADER:
            return _HEADER - have
        return max(0, _HEADER + int.from_bytes(self._buffer[:_HEADER], "big") - have)

    @property
    def is_empty(self) -> bool:
        """Whether the stream may end here without cutting a frame."""
        return not self._buffer
