"""One connection of gpg, by itself: how long it may stay when nothing moves."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.protocol.fields import Claims
from agentproxy.protocol.keys import Curve, EccPublicKey
from agentproxy.runtime.directstream import DirectStream
from agentproxy.runtime.peer import Peer
from relay.caller import Observer
from relay.conversation import IDLE_SECONDS, Conversation, Patience
from relay.departures import Departures
from relay.door import Door, Visitor
from relay.requestlog import RequestLog
from relay.session import HashRefused, Session, SessionKey, SignNeeded
from relay.sighting import Sighting
from relay.signing import Deliver, refusal_entry

PUBLIC_KEYS = [EccPublicKey(Curve.ED25519, bytes([number]) * 32) for number in range(14)]
KEYS = [SessionKey(key.keygrip, key, frozenset()) for key in PUBLIC_KEYS]


class NoSignatures:
    """A service that nobody asks."""

    def __init__(self) -> None:
        self.log = RequestLog(10)

    def expect(self) -> None: ...

    async def sign(self, need: SignNeeded, visitor: Visitor, claims: Claims | None, deliver: Deliver) -> None:
        raise AssertionError((need, visitor, claims, deliver))

    def refused_here(
        self, visitor: Visitor, reason: str, about: HashRefused | None = None, claims: Claims | None = None
    ) -> None:
        raise AssertionError((visitor, reason, about, claims))


@pytest.fixture
def ends() -> Iterator[tuple[DirectStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield DirectStream(ours), theirs


class Refusals(NoSignatures):
    """A service that keeps what the relay itself refuses."""

    def refused_here(
        self, visitor: Visitor, reason: str, about: HashRefused | None = None, claims: Claims | None = None
    ) -> None:
        self.log.add(refusal_entry(visitor, reason, about, claims))

    def reasons(self) -> list[str]:
        return [entry.reason for entry in reversed(self.log.last(10))]


async def converse(
    stream: DirectStream, service: NoSignatures | None = None, observer: Observer | None = None
) -> float:
    """Serve until the end; after how many seconds that came."""
    visitor = Visitor(Peer(os.getpid(), os.getuid(), os.getgid(), ()), Door("main", Path("/nowhere")))
    began = trio.current_time()
    conversation = Conversation(
        stream, service or NoSignatures(), Departures(), observer or Observer(0), visitor, lambda: True, Patience()
    )
    await conversation.run(Session(KEYS))
    return trio.current_time() - began


async def test_who_says_nothing_may_stay_for_a_while(
    ends: tuple[DirectStream, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    assert IDLE_SECONDS <= await converse(ends[0]) <= 2 * IDLE_SECONDS


async def test_who_asks_and_does_not_read_may_stay_no_longer(
    ends: tuple[DirectStream, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    stream, theirs = ends
    theirs.sendall(b"KEYINFO --list\n" * 273)  # there before we look, and the answers are more than a socket takes
    assert IDLE_SECONDS <= await converse(stream) <= 2 * IDLE_SECONDS
    assert stream.unsent


async def test_what_was_refused_is_told_also_by_a_relay_that_is_stopped_meanwhile(
    ends: tuple[DirectStream, socket.socket],
) -> None:
    looks, may_end = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def look(_: Sighting) -> None:
        token.run_sync_soon(looks.set)
        may_end.wait(60)

    stream, theirs = ends
    service = Refusals()
    theirs.sendall(b"SETHASH 2 " + b"00" * 20 + b"\nGENKEY\n")
    try:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(converse, stream, service, Observer(60, look))
                await looks.wait()
                nursery.cancel_scope.cancel()
    finally:
        may_end.set()

    assert service.reasons() == [
        "SETHASH: SHA1 is not allowed for any key (allowed: none)",
        "command 'GENKEY' is not served",
    ]


async def test_what_was_refused_is_told_also_when_the_caller_has_left(ends: tuple[DirectStream, socket.socket]) -> None:
    stream, theirs = ends
    service = Refusals()
    theirs.sendall(b"GENKEY\n")
    theirs.close()
    await converse(stream, service)

    assert service.reasons() == ["command 'GENKEY' is not served"]


async def test_what_was_refused_is_told_also_when_the_caller_does_not_read(
    ends: tuple[DirectStream, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    stream, theirs = ends
    service = Refusals()
    theirs.sendall(b"KEYINFO --list\n" * 272 + b"GENKEY\n")
    await converse(stream, service)

    assert stream.unsent
    assert service.reasons() == ["command 'GENKEY' is not served"]
