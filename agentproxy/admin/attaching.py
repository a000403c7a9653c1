"""`blind-oracle attach`, started by sshd for a runner: carries bytes between its own input and output and the oracle.

It runs as the user that logs in, knows no secret and decides nothing: it tells the oracle what sshd found out, and the
oracle believes it by its uid.
"""

import os
import selectors
import socket
from collections.abc import Mapping
from pathlib import Path

from agentproxy.protocol.attach_messages import FROM_ATTACHER, Attach
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.frames import encode_frame

__all__ = ["attach", "client_address"]

_CHUNK = 65_536  # bytes
SEND_SECONDS = 30.0  # an oracle that takes nothing for so long is gone; the relay has given up before


def client_address(environment: Mapping[str, str]) -> str:
    """host:port of the ssh client, from what sshd has set (sshd(8), SSH_CONNECTION).

    Raises:
        ConfigError: sshd did not start us.
    """
    words = environment.get("SSH_CONNECTION", "").split()
    if len(words) != 4:
        raise ConfigError(
            "SSH_CONNECTION is not set: sshd starts this command, people do not",
            "blind-oracle runner add NAME --ssh-key FILE prints the line for authorized_keys",
        )
    host, port = words[0], words[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def attach(path: Path, runner: str, address: str, source: int = 0, sink: int = 1) -> None:
    """Bring the stream on the descriptors `source` and `sink` to the oracle's attach socket, until either side ends.

    Raises:
        ConfigError: the runner has no such name, or nobody listens there.
    """
    try:
        first = FROM_ATTACHER.encode(Attach(runner, address))
    except RemoteProtocolError as error:
        raise ConfigError(f"--runner: {error}") from error
    with socket.socket(socket.AF_UNIX) as oracle:
        try:
            oracle.settimeout(SEND_SECONDS)
            oracle.connect(os.fspath(path))
            oracle.sendall(encode_frame(first))
            _carry(oracle, source, sink)
        except OSError as error:
            raise ConfigError(f"{path}: cannot reach the oracle: {error.strerror or error}") from error


def _carry(oracle: socket.socket, source: int, sink: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        selector.register(oracle, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == source:
                    data = os.read(source, _CHUNK)
                    oracle.sendall(data)
                else:
                    data = oracle.recv(_CHUNK)
                    _write(sink, data)
                if not data:
                    return


def _write(sink: int, data: bytes) -> None:
    while data:
        data = data[os.write(sink, data) :]
