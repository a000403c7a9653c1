"""A real gpg-agent with a GnuPG home of its own, spoken to as a strict Assuan client: the host's own key lies there.

What it answers is parsed into our types and never passed on. It gets no environment, no terminal and no passphrase of
ours, and every inquiry is cancelled. Source: gpg-agent.texi, Agent Protocol.
"""

import os
import subprocess
from pathlib import Path

import trio

from agentproxy.protocol.assuan import (
    Data,
    Err,
    Inquire,
    Ok,
    ReplyLine,
    ReplyReader,
    StatusLine,
    encode_command,
)
from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import BackendError, KeyUnavailableError, RemoteProtocolError
from agentproxy.protocol.gpgerror import GpgError
from agentproxy.protocol.keys import Keygrip, PublicKey
from agentproxy.protocol.sexp import parse_public_key, parse_signature
from agentproxy.protocol.signatures import Signature

__all__ = ["AGENT_SECONDS", "LocalAgent", "gpgconf"]

# An RSA-4096 signature takes 33 ms; only a hanging agent, or one that asks a person, takes so long. gpg's own user
# still waits, and hears "Timeout" well before a relay's usual deadline.
AGENT_SECONDS = 10.0
GPGCONF_SECONDS = 10
_MAX_REPLY = 65_536  # bytes; RSA-8192 has 1 KiB, and a list of 1000 keys 60 KiB
_READ_BYTES = 4096
_UNKNOWN_KEYS = frozenset({GpgError.NO_SECKEY.value & 0xFFFF, GpgError.NOT_FOUND.value & 0xFFFF})
_OF_SOURCE = 0xFFFF  # a code without the part of GnuPG that it came from


def gpgconf(home: Path, *arguments: str) -> str:
    """Run gpgconf for `home`. It blocks for at most GPGCONF_SECONDS.

    Raises:
        BackendError: it is not installed, failed, or hangs.
    """
    command = ["gpgconf", "--homedir", str(home), *arguments]
    # Not our environment: the agent that gpgconf starts lives longer than we do, and keeps what it was given.
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "HOME": str(home)}
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=GPGCONF_SECONDS, env=environment)
    except FileNotFoundError as error:
        raise BackendError("gpgconf is not installed: apt-get install gnupg gpg-agent") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode("utf-8", "backslashreplace").strip()[:200]
        raise BackendError(f"gpgconf {' '.join(arguments)} failed for {home}: {words!r}") from error
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"gpgconf {' '.join(arguments)} took longer than {GPGCONF_SECONDS} s for {home}") from error
    return os.fsdecode(done.stdout)


class LocalAgent:
    """The agent of one GnuPG home; started when nobody answers there.

    Args:
        home: the GnuPG home.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._socket: Path | None = None
        # One starts it for all: of two `gpgconf --launch` in the same moment one fails now and then, after waiting for
        # 5 s. A thread that was given up on keeps its place to its end, so those that a hanging gpgconf holds up do not
        # become more and more, until none is left for the way to the oracle.
        self._starting = trio.CapacityLimiter(1)
        self._starts = 0

    async def sign(self, keygrip: Keygrip, digest: Digest) -> Signature:
        """Have a digest signed; the caller checks the signature.

        Raises:
            KeyUnavailableError: the key is not there, or needs a passphrase.
            BackendError: the agent is dead, hangs, refuses, or answers nonsense.
        """
        hexadecimal = digest.value.hex().upper()
        reply = await self._converse(
            ("RESET", ""),
            ("OPTION", "pinentry-mode=error"),  # a passphrase that is not in its cache: fail, and ask nobody
            ("SIGKEY", str(keygrip)),
            ("SETHASH", f"{digest.algorithm.value} {hexadecimal}"),
            ("PKSIGN", ""),
        )
        try:
            return parse_signature(reply.data)
        except RemoteProtocolError as error:
            raise BackendError(f"the local agent's signature is none: {error}") from error

    async def public_key(self, keygrip: Keygrip) -> PublicKey:
        """The public numbers of a key.

        Raises:
            KeyUnavailableError, BackendError: as in `sign`.
        """
        reply = await self._converse(("READKEY", str(keygrip)))
        try:
            return parse_public_key(reply.data)
        except RemoteProtocolError as error:
            raise BackendError(f"the local agent's public key is none: {error}") from error

    async def keygrips(self) -> frozenset[Keygrip]:
        """All secret keys that lie there.

        Raises:
            BackendError: as in `sign`.
        """
        reply = await self._converse(("KEYINFO", "--list"))
        try:
            words = [line.text.split(b" ")[0] for line in reply.status if line.keyword == "KEYINFO"]
            return frozenset(Keygrip.parse(word.decode("ascii", "replace")) for word in words)
        except RemoteProtocolError as error:
            raise BackendError(f"the local agent's list of keys is none: {error}") from error

    async def _converse(self, *commands: tuple[str, str]) -> "_Reply":
        """Send commands one after another on a connection of their own; the reply to the last."""
        try:
            with trio.fail_after(AGENT_SECONDS):
                async with await self._connect() as stream:
                    conversation = _Conversation(stream)
                    reply = await conversation.reply()  # the greeting
                    for name, text in commands:
                        reply = await conversation.ask(name, text)
                    return reply
        except trio.TooSlowError:
            raise BackendError(f"the local agent did not answer within {AGENT_SECONDS:.0f} s") from None
        except (OSError, trio.BrokenResourceError, RemoteProtocolError) as error:
            raise BackendError(f"the local agent of {self._home}: {error}") from error

    async def _connect(self) -> trio.SocketStream:
        starts = self._starts
        if self._socket is not None:
            try:
                return await trio.open_unix_socket(self._socket)
            except OSError:
                pass  # it ended: a new one is started below
        self._socket = await trio.to_thread.run_sync(
            self._started, starts, abandon_on_cancel=True, limiter=self._starting
        )
        return await trio.open_unix_socket(self._socket)

    def _started(self, starts: int) -> Path:
        """The socket of an agent that was started behind the first `starts` ones."""
        if self._starts == starts or self._socket is None:
            gpgconf(self._home, "--launch", "gpg-agent")
            self._socket = Path(gpgconf(self._home, "--list-dirs", "agent-socket").rstrip("\n"))
            self._starts += 1
        return self._socket


class _Reply:
    """What came before the OK that ends a reply."""

    def __init__(self) -> None:
        self.data = b""
        self.status: list[StatusLine] = []
        self.size = 0

    def take(self, line: Data | StatusLine) -> None:
        if isinstance(line, Data):
            self.data += line.data
            self.size += len(line.data)
        else:
            self.status.append(line)
            self.size += len(line.text)
        if self.size > _MAX_REPLY:
            raise RemoteProtocolError(f"a reply of more than {_MAX_REPLY} bytes")


class _Conversation:
    """One connection to an agent."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = ReplyReader()

    async def ask(self, name: str, text: str) -> _Reply:
        await self._stream.send_all(encode_command(name, text))
        return await self.reply()

    async def reply(self) -> _Reply:
        reply = _Reply()
        while True:
            match await self._line():
                case Ok():
                    return reply
                case Err(code=code, text=words):
                    said = words.decode("utf-8", "backslashreplace")[:200]
                    known = KeyUnavailableError if code & _OF_SOURCE in _UNKNOWN_KEYS else BackendError
                    raise known(f"the local agent refused: {said!r} ({code})")
                case Inquire(keyword=keyword):
                    await self._stream.send_all(encode_command("CAN"))
                    if keyword == "PASSPHRASE":
                        raise KeyUnavailableError("the local agent asks for a passphrase, and nobody is there to ask")
                case (Data() | StatusLine()) as line:
                    reply.take(line)

    async def _line(self) -> ReplyLine:
        while (line := self._reader.next_reply()) is None:
            untrusted = await self._stream.receive_some(_READ_BYTES)
            if not untrusted:
                raise RemoteProtocolError("it closed the connection in the middle of a reply")
            self._reader.receive_data(bytes(untrusted))
        return line
