"""A stream to an oracle over ssh: a process of ours, with `blind-oracle attach` as forced command at its far end.

Host keys, the private key and jump hosts are ssh's business: its configuration, or the file that relay.yaml names. Only
what a daemon needs is set here. Source: ssh(1), ssh_config(5).
"""

import os
import subprocess
from io import FileIO
from pathlib import Path

import trio

from agentproxy.protocol.addresses import SshAddress
from agentproxy.protocol.fields import without_controls
from relay.errors import LinkLostError

__all__ = ["SshStream", "open_ssh"]

# What the far side or ssh itself said last; enough for "Host key verification failed" with its ten lines around.
_MOST_WORDS = 2048  # bytes
_PIPE = 65_536  # bytes: all that a pipe holds
END_SECONDS = 2.0  # ssh ends when its input does; one that hangs on a dead network is killed

# A daemon answers no question; an ssh without a peer ends before a signature's deadline does.
_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=8",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=2",
    "ClearAllForwardings=yes",
    "EscapeChar=none",
    "RequestTTY=no",
)


class SshStream(trio.abc.Stream):
    """The pipes of a running ssh; closing the stream ends the process.

    Args:
        process: with pipes for input and output.
        errors: the end of a third pipe, which never blocks; closed along with this.
    """

    def __init__(self, process: trio.Process, errors: FileIO) -> None:
        self._process = process
        self._errors = errors
        self._said = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write to the far side; see trio.abc.SendStream."""
        await self._input.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        await self._input.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read from the far side; see trio.abc.ReceiveStream.

        Raises:
            trio.BrokenResourceError: ssh ended; with what it said.
        """
        if self._process.stdout is None:
            raise trio.ClosedResourceError
        received = await self._process.stdout.receive_some(max_bytes)
        self._listen()
        if received:
            return received
        words = self._words()
        if words:
            raise trio.BrokenResourceError(f"ssh: {words}")
        return b""

    async def aclose(self) -> None:
        """End ssh: politely at first, in any case soon."""
        try:
            await self._input.aclose()
            with trio.move_on_after(END_SECONDS):
                await self._process.wait()
        finally:
            with trio.CancelScope(shield=True):  # bounded: a killed process ends
                if self._process.returncode is None:
                    self._process.kill()
                    await self._process.wait()
                if self._process.stdout is not None:
                    await self._process.stdout.aclose()
            self._errors.close()

    @property
    def _input(self) -> trio.abc.SendStream:
        if self._process.stdin is None:
            raise trio.ClosedResourceError
        return self._process.stdin

    def _listen(self) -> None:
        """Take what was said since the last time, lest a program behind ssh waits for room in the pipe."""
        self._said = (self._said + (self._errors.read(_PIPE) or b""))[-_MOST_WORDS:]

    def _words(self) -> str:
        """The last line that ssh or the far side wrote to standard error."""
        lines = self._said.decode("utf-8", "replace").splitlines()
        said = [" ".join(line.split()) for line in lines if line.strip()]
        return without_controls(said[-1]) if said else ""  # it goes on to logs and terminals


async def open_ssh(address: SshAddress, configuration: Path | None) -> SshStream:
    """Start ssh. Whether it gets through shows at the first read.

    Args:
        configuration: a file for `ssh -F`; None: ssh's own.

    Raises:
        LinkLostError: there is no ssh here.
    """
    options = [word for option in _OPTIONS for word in ("-o", option)]
    file = [] if configuration is None else ["-F", str(configuration)]
    port = [] if address.port is None else ["-p", str(address.port)]
    # A session with a command, not `-N`: only with a session ssh turns Nagle's algorithm off, without which each
    # signature waits for a delayed acknowledgement. The server's forced command takes this one's place.
    command = ["ssh", "-T", *file, *options, *port, "-l", address.user, "--", address.host, "blind-oracle attach"]
    # A pipe and no file: the far side may write without end, and ssh then stops reading from it.
    reader, writer = os.pipe2(os.O_CLOEXEC)
    errors = FileIO(reader)
    try:
        os.set_blocking(reader, False)
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer, start_new_session=True
        )
    except OSError as error:
        errors.close()
        raise LinkLostError(f"ssh cannot be started: {error.strerror}; is openssh-client installed?") from error
    finally:
        os.close(writer)
    return SshStream(process, errors)
