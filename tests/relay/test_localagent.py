"""What a local agent answers is parsed strictly, and cannot hold a relay up."""

import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import BackendError, KeyUnavailableError
from agentproxy.protocol.keys import Keygrip
from relay import localagent
from relay.localagent import LocalAgent

GRIP = Keygrip(bytes(20))
DIGEST = Digest(HashAlgorithm.SHA256, bytes(32))
SIGNATURE = b"D (7:sig-val(3:rsa(1:s4:abcd)))\nOK\n"


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


class FakeAgent:
    """Greets, and answers each command with the next of some replies; without one it says OK."""

    def __init__(self, greeting: bytes, replies: dict[str, bytes]) -> None:
        self.greeting = greeting
        self.replies = replies
        self.heard: list[str] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        await stream.send_all(self.greeting)
        buffer = b""
        while more := await stream.receive_some():
            *lines, buffer = (buffer + bytes(more)).split(b"\n")
            for line in lines:
                self.heard.append(line.decode())
                reply = self.replies.get(line.split(b" ")[0].decode(), b"OK\n")
                if reply == b"hang up":
                    return
                await stream.send_all(reply)


@asynccontextmanager
async def agent(
    home: Path, greeting: bytes = b"OK hello\n", **replies: bytes
) -> AsyncIterator[tuple[LocalAgent, FakeAgent]]:
    fake = FakeAgent(greeting, replies)
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(home / "S"))
    listening.listen(8)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, fake.serve, [trio.SocketListener(listening)])
        real = LocalAgent(home)
        real._socket = home / "S"
        yield real, fake
        nursery.cancel_scope.cancel()


async def test_it_is_asked_for_one_signature_and_for_nothing_else(home: Path) -> None:
    async with agent(home, PKSIGN=SIGNATURE) as (real, fake):
        signature = await real.sign(GRIP, DIGEST)
        assert signature.algorithm == "rsa"
        assert fake.heard == [
            "RESET",
            "OPTION pinentry-mode=error",
            f"SIGKEY {GRIP}",
            f"SETHASH 8 {'00' * 32}",
            "PKSIGN",
        ]


NONSENSE = {
    "no signature": b"OK\n",
    "another layout": b"D (7:sig-val(3:rsa(1:t4:abcd)))\nOK\n",
    "bytes behind it": b"D (7:sig-val(3:rsa(1:s4:abcd)))x\nOK\n",
    "an unknown line": b"HELLO\nOK\n",
    "a bad escape": b"D %zz\nOK\n",
    "a line too long": b"D " + b"a" * 2000 + b"\nOK\n",
    "a reply too long": (b"D " + b"a" * 900 + b"\n") * 80 + b"OK\n",
    "an error": b"ERR 67108865 General error <GPG Agent>\n",
    "a bad number": b"ERR x\n",
    "the end": b"hang up",
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_is_no_signature(home: Path, name: str) -> None:
    async with agent(home, PKSIGN=NONSENSE[name]) as (real, _):
        with pytest.raises(BackendError):
            await real.sign(GRIP, DIGEST)


async def test_a_bad_greeting_ends_it(home: Path) -> None:
    async with agent(home, greeting=b"ERR 1 busy\n") as (real, fake):
        with pytest.raises(BackendError, match="refused"):
            await real.sign(GRIP, DIGEST)
        assert fake.heard == []


@pytest.mark.parametrize("silent", ["greeting", "PKSIGN"])
async def test_a_silent_agent_costs_its_own_deadline(
    home: Path, autojump_clock: trio.testing.MockClock, silent: str
) -> None:
    replies = {} if silent == "greeting" else {silent: b""}
    async with agent(home, greeting=b"" if silent == "greeting" else b"OK\n", **replies) as (real, _):
        began = trio.current_time()
        with pytest.raises(BackendError, match="did not answer within 10 s"):
            await real.sign(GRIP, DIGEST)
        assert trio.current_time() - began == pytest.approx(localagent.AGENT_SECONDS)


async def test_one_that_talks_without_end_costs_its_deadline_too(
    home: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with agent(home, PKSIGN=b"# still busy\n" * 10) as (real, _):
        with pytest.raises(BackendError, match="did not answer"):
            await real.sign(GRIP, DIGEST)


async def test_a_question_for_a_passphrase_is_cancelled_and_named(home: Path) -> None:
    async with agent(home, PKSIGN=b"S INQUIRE_MAXLEN 255\nINQUIRE PASSPHRASE\n") as (real, fake):
        with pytest.raises(KeyUnavailableError, match="asks for a passphrase"):
            await real.sign(GRIP, DIGEST)
        with trio.fail_after(20):
            while True:
                if fake.heard[-1] == "CAN":
                    return
                await trio.sleep(0.01)


@pytest.mark.parametrize("code", [67108881, 67108891])
async def test_a_key_that_is_not_there_is_named_as_that(home: Path, code: int) -> None:
    async with agent(home, SIGKEY=b"ERR %d no key\n" % code) as (real, _):
        with pytest.raises(KeyUnavailableError):
            await real.sign(GRIP, DIGEST)


async def test_its_keys_are_listed_or_refused_whole(home: Path) -> None:
    line = b"S KEYINFO " + b"00" * 20 + b" D - - - C - - -\n"
    async with agent(home, KEYINFO=line + b"OK\n") as (real, fake):
        assert await real.keygrips() == {GRIP}
        fake.replies["KEYINFO"] = line + b"S KEYINFO zz D\nOK\n"
        with pytest.raises(BackendError):
            await real.keygrips()


async def test_many_at_once_start_one_agent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that gpg starts in the same moment one fails now and then."""
    starts: list[Path] = []

    def gpgconf(place: Path, *arguments: str) -> str:
        if "--launch" in arguments:
            starts.append(place)
        return real_gpgconf(place, *arguments)

    real_gpgconf = localagent.gpgconf
    monkeypatch.setattr(localagent, "gpgconf", gpgconf)
    local = LocalAgent(home)
    try:
        for number in (1, 2):
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        nursery.start_soon(local.keygrips)
            assert len(starts) == number
            real_gpgconf(home, "--kill", "gpg-agent")  # and once more when it has ended, which takes its socket away
            socket = Path(real_gpgconf(home, "--list-dirs", "agent-socket").rstrip("\n"))
            with trio.fail_after(60):
                while True:
                    if not socket.exists():
                        break
                    await trio.sleep(0.01)
    finally:
        real_gpgconf(home, "--kill", "gpg-agent")
        real_gpgconf(home, "--remove-socketdir")


async def test_one_that_cannot_be_started_leaves_the_relay_its_other_threads(
    home: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpg's users try again and again, and the way to the oracle needs a thread that looks up its name."""
    gate = threading.Event()

    def gpgconf(_: Path, *arguments: str) -> str:
        assert gate.wait(60)
        return "S\n"

    monkeypatch.setattr(localagent, "gpgconf", gpgconf)
    local = LocalAgent(home)
    threads = trio.to_thread.current_default_thread_limiter()
    try:
        for _ in range(threads.total_tokens):
            with pytest.raises(BackendError, match="did not answer within 10 s"):
                await local.keygrips()
        assert threads.borrowed_tokens == 0
    finally:
        gate.set()
