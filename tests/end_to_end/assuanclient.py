"""A client that sends the relay what it likes: what a hostile build server can do."""

import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from agentproxy.protocol.assuan import Data, Err, Inquire, Ok, ReplyReader, encode_command
from agentproxy.protocol.digests import Digest
from agentproxy.protocol.sexp import parse_signature
from agentproxy.protocol.signatures import Signature

__all__ = ["AssuanClient", "AssuanError"]

_SECONDS = 60


class AssuanError(Exception):
    """The relay answered ERR."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code  # without its source


class AssuanClient:
    """One connection to a relay's socket, after its greeting."""

    def __init__(self, path: Path) -> None:
        self._reader = ReplyReader()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_SECONDS)
        try:
            self._socket.connect(str(path))
            self._reply()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, name: str, text: str = "") -> bytes:
        """The data that a command is answered with.

        Raises:
            AssuanError: ERR.
            ConnectionError: the relay closed the connection.
        """
        self._socket.sendall(encode_command(name, text))
        return self._reply()

    def sign(self, keygrip: str, digest: Digest) -> Signature:
        return parse_signature(self.signature_bytes(keygrip, digest))

    def signature_bytes(self, keygrip: str, digest: Digest) -> bytes:
        """The S-expression as gpg would get it."""
        self.ask("SIGKEY", keygrip)
        self.ask("SETHASH", f"{int(digest.algorithm)} {digest.value.hex().upper()}")
        return self.ask("PKSIGN")

    def _reply(self) -> bytes:
        data = b""
        while True:
            match self._reader.next_reply():
                case None:
                    if not (untrusted := self._socket.recv(65536)):
                        raise ConnectionAbortedError("the relay closed the connection")
                    self._reader.receive_data(untrusted)
                case Data(part):
                    data += part
                case Inquire():
                    self._socket.sendall(b"END\n")
                case Err(code, _):
                    raise AssuanError(code & 0xFFFF)
                case Ok():
                    return data
                case _:
                    pass  # a status line
