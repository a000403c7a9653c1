"""One connection of gpg, by itself: how long it may stay when nothing moves."""

import os
import socket
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
from relay.signing import Deliver

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


async def converse(stream: DirectStream) -> float:
    """Serve until the end; after how many seconds that came."""
    visitor = Visitor(Peer(os.getpid(), os.getuid(), os.getgid(), ()), Door("main", Path("/nowhere")))
    began = trio.current_time()
    await Conversation(stream, NoSignatures(), Departures(), Observer(0), visitor, lambda: True, Patience()).run(
        Session(KEYS)
    )
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
