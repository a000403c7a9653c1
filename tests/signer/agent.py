"""A backend over a real gpg-agent: the reference that our own backend is compared with."""

import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from agentproxy.protocol.assuan import Data, Err, Inquire, Ok, ReplyReader, encode_command
from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import BackendError, KeyUnavailableError
from agentproxy.protocol.keys import Keygrip, PublicKey
from agentproxy.protocol.sexp import parse_signature
from agentproxy.protocol.signatures import Signature

_NO_SECRET_KEY = 67108881


class AgentBackend:
    """One connection to the agent of a GnuPG home; `keys` are the public halves that it may be asked for."""

    def __init__(self, home: Path, keys: Mapping[Keygrip, PublicKey], passphrase: str = "") -> None:
        self._keys = dict(keys)
        self._passphrase = passphrase.encode()
        self._lock = threading.Lock()
        subprocess.run(
            ["gpgconf", "--homedir", str(home), "--launch", "gpg-agent"], check=True, timeout=30, capture_output=True
        )
        listed = subprocess.run(
            ["gpgconf", "--homedir", str(home), "--list-dirs", "agent-socket"],
            check=True,
            timeout=30,
            capture_output=True,
        )
        self._reader = ReplyReader()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(listed.stdout.decode().strip())
        self._reply()
        self._ask("OPTION", "pinentry-mode=loopback")

    def close(self) -> None:
        self._socket.close()

    def keygrips(self) -> frozenset[Keygrip]:
        return frozenset(self._keys)

    def public_key(self, keygrip: Keygrip) -> PublicKey:
        try:
            return self._keys[keygrip]
        except KeyError:
            raise KeyUnavailableError(f"no secret key {keygrip}") from None

    def sign(self, keygrip: Keygrip, digest: Digest) -> Signature:
        with self._lock:
            self._ask("RESET")
            self._ask("SIGKEY", str(keygrip))
            self._ask("SETHASH", f"{int(digest.algorithm)} {digest.value.hex().upper()}")
            return parse_signature(self._ask("PKSIGN"))

    def _ask(self, name: str, text: str = "") -> bytes:
        self._socket.sendall(encode_command(name, text))
        return self._reply()

    def _reply(self) -> bytes:
        data = b""
        while True:
            match self._reader.next_reply():
                case None:
                    self._reader.receive_data(self._socket.recv(65536) or b"ERR 1 closed\n")
                case Data(part):
                    data += part
                case Inquire("PASSPHRASE"):
                    self._socket.sendall(b"D " + self._passphrase + b"\nEND\n")
                case Inquire():
                    self._socket.sendall(b"END\n")
                case Err(code, text):
                    kind = KeyUnavailableError if code == _NO_SECRET_KEY else BackendError
                    raise kind(text.decode())
                case Ok():
                    return data
