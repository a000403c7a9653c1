"""What people on a build server can do to the relay's sockets, and what they cannot."""

import fcntl
import os
import socket
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.runtime.directstream import DirectStream
from agentproxy.runtime.unixsocket import bind
from relay.config import SocketConfig
from relay.conversation import MOST_AT_ONCE, MOST_REFUSALS, READ_BYTES, SOON_MS, Conversation
from tests.relay.activation import ROOT, SECONDS, until, write_config
from tests.relay.conftest import GPG_SECONDS, Runner

BUILDER = 12345  # a user of no other importance
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


async def as_builder(*command: str | Path, home: Path) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(GPG_SECONDS):
        return await trio.run_process(
            [str(word) for word in command],
            check=False,
            capture_stdout=True,
            capture_stderr=True,
            stdin=b"",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(home), "GNUPGHOME": str(home)},
            user=BUILDER,
            group=BUILDER,
            extra_groups=[],
        )


@AS_ROOT
async def test_a_builders_own_gpg_agent_cannot_take_the_relays_place(runner: Runner, tmp_path: Path) -> None:
    runner.directory.chmod(0o711)
    runner.socket.parent.chmod(0o755)
    runner.config = replace(runner.config, sockets=(replace(runner.config.sockets[0], mode="0666"),))
    home = runner.directory / "home"
    home.mkdir(mode=0o700)
    # gpg-agent binds where this leads: as after a relay's `setup`, or as an attacker would write it.
    (home / "S.gpg-agent").write_text(f"%Assuan%\nsocket={runner.socket}\n")
    for path in (home, home / "S.gpg-agent"):
        os.chown(path, BUILDER, BUILDER)
    async with runner.running_oracle():
        async with runner.relay():
            before = runner.socket.stat()
            await as_builder("gpg-agent", "--homedir", home, "--daemon", "true", home=home)
            await as_builder("gpgconf", "--homedir", home, "--kill", "gpg-agent", home=home)
            for words in (["rm", "-f"], ["ln", "-sf", "/tmp/other"], ["mv", home / "S.gpg-agent"]):
                assert (await as_builder(*words, runner.socket, home=home)).returncode != 0
            assert (await runner.sign()).returncode == 0
        after = runner.socket.stat()
        assert (before.st_ino, before.st_uid) == (after.st_ino, after.st_uid)
        # The relay is gone, and its socket is a ruin: not even now.
        await as_builder("gpg-agent", "--homedir", home, "--daemon", "true", home=home)
        async with runner.relay():
            assert (await runner.sign()).returncode == 0


async def test_the_socket_has_the_mode_and_the_owner_that_were_asked_for(runner: Runner) -> None:
    for mode in ("0600", "0660", "0666"):
        runner.config = replace(runner.config, sockets=(replace(runner.config.sockets[0], mode=mode),))
        async with runner.running_oracle(), runner.relay():
            status = runner.socket.stat()
            assert stat.filemode(status.st_mode) == stat.filemode(stat.S_IFSOCK | int(mode, 8))
            assert status.st_uid == os.geteuid()


async def test_two_hundred_connect_in_the_same_moment_and_nobody_is_turned_away(runner: Runner) -> None:
    async with bind(runner.socket, 0o600):
        with ExitStack() as stack:
            for _ in range(200):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(runner.socket))  # a full queue would raise BlockingIOError here


async def test_who_drips_a_line_holds_the_event_loop_once_and_no_more(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[bytes | None] = []
    receive_within = DirectStream.receive_within
    with socket.socket(socket.AF_UNIX) as client:

        def dripping(stream: DirectStream, milliseconds: int, max_bytes: int) -> bytes | None:
            client.sendall(b"E")  # in time, and no newline
            waits.append(receive_within(stream, milliseconds, max_bytes))
            return waits[-1]

        monkeypatch.setattr(DirectStream, "receive_within", dripping)
        monkeypatch.setattr(Conversation, "_soon", lambda _: None)  # only the wait for a newline is looked at
        async with runner.both():
            client.connect(str(runner.socket))
            for piece in (b"R", b"SE", b"T\nRESE", b"T\n"):
                client.sendall(piece)
                await until(lambda: _unread(client) == 0)
            client.setblocking(False)
            answers = b""
            with trio.fail_after(SECONDS):
                while answers.count(b"\n") < 3:
                    await trio.lowlevel.wait_readable(client)
                    answers += client.recv(4096)
    assert waits == [b"E"]
    assert answers == b"OK Pleased to meet you\nOK\nOK\n"


async def test_a_crowd_that_sends_half_lines_holds_the_event_loop_once_and_no_more(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[bytes | None] = []
    receive_within = DirectStream.receive_within

    def within(stream: DirectStream, milliseconds: int, max_bytes: int) -> bytes | None:
        waits.append(receive_within(stream, milliseconds, max_bytes))
        return waits[-1]

    monkeypatch.setattr(DirectStream, "receive_within", within)
    monkeypatch.setattr(Conversation, "_soon", lambda _: None)  # only the wait for a newline is looked at
    monkeypatch.setattr("relay.conversation.RECOVERY", 1_000_000)  # longer than this test takes
    async with runner.both():
        with ExitStack() as stack:
            for client in crowd(stack, runner.socket, 20):
                client.sendall(b"RESE")
                await until(lambda client=client: _unread(client) == 0)
                client.sendall(b"T\n")
                client.setblocking(False)
                answers = b""
                with trio.fail_after(SECONDS):
                    while answers.count(b"\n") < 2:
                        await trio.lowlevel.wait_readable(client)
                        answers += client.recv(4096)
                assert answers == b"OK Pleased to meet you\nOK\n"
    assert len(waits) == 1


@dataclass
class Reads:
    """How many reads of a conversation came one after the other, without the event loop in between."""

    in_a_row: int = 0
    longest: int = 0


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found = Reads()
    receive_within, receive_some = DirectStream.receive_within, DirectStream.receive_some

    def within(stream: DirectStream, milliseconds: int, max_bytes: int) -> bytes | None:
        received = receive_within(stream, milliseconds, max_bytes)
        found.in_a_row += bool(received)
        found.longest = max(found.longest, found.in_a_row)
        return received

    async def some(stream: DirectStream, max_bytes: int | None = None) -> bytes:
        found.in_a_row = 0  # others have their turn
        return await receive_some(stream, max_bytes)

    monkeypatch.setattr(DirectStream, "receive_within", within)
    monkeypatch.setattr(DirectStream, "receive_some", some)
    return found


async def answers_to(runner: Runner, commands: bytes) -> None:
    """Send as many of these as the kernel takes, and read the answer to each."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        async with runner.both():
            client.connect(str(runner.socket))
            client.setblocking(False)
            sent = client.send(commands)
            assert sent > MOST_AT_ONCE * READ_BYTES
            answers = 0
            with trio.fail_after(SECONDS):
                while answers < 1 + sent // 4:  # the greeting, too
                    await trio.lowlevel.wait_readable(client)
                    answers += client.recv(1 << 16).count(b"\n")


async def test_who_sends_without_end_lets_others_have_their_turn_after_each_read(runner: Runner, reads: Reads) -> None:
    await answers_to(runner, b"NOP\n" * 4 * READ_BYTES)  # as much as this many reads take: 16
    assert reads.longest == 1


async def test_who_is_quick_without_end_takes_turns_with_everybody_else(
    runner: Runner, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.conversation.READ_BYTES", 4)  # one command in each read, and the next one is there
    await answers_to(runner, b"NOP\n" * 4 * READ_BYTES)
    assert reads.longest == MOST_AT_ONCE


async def test_a_silent_client_is_waited_for_in_the_event_loop(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    receive_within = DirectStream.receive_within

    def within(stream: DirectStream, milliseconds: int, max_bytes: int) -> bytes | None:
        waits.append(milliseconds)
        return receive_within(stream, 0, max_bytes)

    monkeypatch.setattr(DirectStream, "receive_within", within)
    with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as other:
        async with runner.both():
            for one in (client, other):
                one.connect(str(runner.socket))
                one.setblocking(False)
                await trio.lowlevel.wait_readable(one)
                one.recv(4096)
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(10):
                client.sendall(b"NOP\n")
                with trio.fail_after(SECONDS):
                    await trio.lowlevel.wait_readable(client)
                assert client.recv(4096) == b"OK\n"
    # The first, alone, may be waited for once, the second is not alone; and after two misses nobody is tried again.
    assert waits == [SOON_MS, 0, 0]


async def test_who_is_refused_again_and_again_is_sent_away(runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        async with runner.both():
            client.connect(str(runner.socket))
            client.sendall(b"NONSENSE\n" * (MOST_REFUSALS + 50))
            client.setblocking(False)
            with trio.fail_after(SECONDS):
                while await _received(client):
                    pass
            assert (await runner.sign()).returncode == 0
    told = [record.getMessage() for record in caplog.records if record.name == "relay.requestlog"]
    assert sum("NONSENSE" in line for line in told) == MOST_REFUSALS
    assert sum("the connection is ended" in line for line in told) == 1


async def _received(client: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(client)
    try:
        return client.recv(65_536)
    except ConnectionResetError:
        return b""


def _unread(client: socket.socket) -> int:
    """How many bytes the other side has not read yet; unix(7), SIOCOUTQ."""
    (count,) = struct.unpack("i", fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)))
    return int(count)


def crowd(stack: ExitStack, path: Path, count: int) -> Sequence[socket.socket]:
    """Clients that connect and say nothing."""
    clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
    for client in clients:
        client.connect(str(path))
    return clients


async def test_a_crowd_that_uses_up_a_relays_descriptors_leaves_the_other_socket_open(runner: Runner) -> None:
    everyone = runner.config.sockets[0]
    quiet = SocketConfig(everyone.path.with_name("S.quiet"), "quiet")
    runner.config = replace(runner.config, sockets=(everyone, quiet))
    limited = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh", sys.executable, "-m", "relay.cli", "serve", "--config"]
    async with runner.running_oracle():
        config = write_config(runner)
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = await trio.lowlevel.open_process([*limited, str(config)], env=variables, stderr=subprocess.DEVNULL)
        try:
            await until(quiet.path.is_socket)
            runner.redirect.write_text(f"%Assuan%\nsocket={quiet.path}\n")
            with ExitStack() as stack:
                crowd(stack, everyone.path, 300)
                assert (await runner.sign()).returncode == 0
            runner.redirect.write_text(f"%Assuan%\nsocket={everyone.path}\n")
            assert (await runner.sign()).returncode == 0
        finally:
            process.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(SECONDS):
                await process.wait()
    assert [one.socket for one in runner.oracle.requests] == ["quiet", "gpg"]
