"""A real gpg-agent with a key of each algorithm, made once."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentproxy.protocol.assuan import Data, Err, Ok, ReplyReader, encode_command
from agentproxy.protocol.keys import Keygrip

ALGORITHMS = ("rsa2048", "dsa2048", "ed25519", "nistp256", "nistp384", "nistp521")


class AgentConversation:
    """One connection to a real agent, spoken with our own client role."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._replies = ReplyReader()
        self._answer()

    def ask(self, name: str, text: str = "") -> bytes:
        """The data of the answer to one command; an ERR fails the test."""
        self._socket.sendall(encode_command(name, text))
        return self._answer()

    def close(self) -> None:
        self._socket.close()

    def _answer(self) -> bytes:
        data = b""
        while not isinstance(reply := self._replies.next_reply(), Ok):
            assert not isinstance(reply, Err), reply
            if isinstance(reply, Data):
                data += reply.data
            elif reply is None:
                received = self._socket.recv(4096)
                assert received
                self._replies.receive_data(received)
        return data


@dataclass(frozen=True)
class RealAgent:
    socket: Path
    keygrips: dict[str, Keygrip]


@pytest.fixture(scope="session")
def real_agent() -> Iterator[RealAgent]:
    home = Path(tempfile.mkdtemp(prefix="bo"))
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
    keygrips = {}
    try:
        for name in ALGORITHMS:
            subprocess.run(
                [*gpg, "--quick-gen-key", name, name, "sign", "never"], check=True, capture_output=True, timeout=120
            )
            listing = subprocess.run(
                [*gpg, "--with-colons", "--with-keygrip", "--list-keys", name],
                check=True,
                capture_output=True,
                timeout=30,
            )
            (grip,) = [row.split(":")[9] for row in listing.stdout.decode().splitlines() if row.startswith("grp")]
            keygrips[name] = Keygrip.parse(grip)
        found = subprocess.run(
            ["gpgconf", "--homedir", str(home), "--list-dirs", "agent-socket"],
            check=True,
            capture_output=True,
            timeout=30,
        )
        yield RealAgent(Path(found.stdout.decode().strip()), keygrips)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False, timeout=30)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def agent(real_agent: RealAgent) -> Iterator[AgentConversation]:
    conversation = AgentConversation(real_agent.socket)
    yield conversation
    conversation.close()
