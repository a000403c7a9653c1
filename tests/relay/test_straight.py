"""The straight way over a stream of which the test holds the other end: what an oracle says, and in which pieces."""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agentproxy.protocol.frames import FrameReader, encode_frame
from agentproxy.protocol.key_messages import SelectKey
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, FromOracle, FromRelay
from agentproxy.protocol.oracle_messages import Drain, Welcome
from agentproxy.protocol.relay_messages import Ping, Pong
from agentproxy.protocol.seal_messages import Seal, Sealed
from relay.heads import Heads
from relay.introduction import tls_context
from relay.sealed import straight as straight_module
from relay.sealed.straight import StraightWay, UnusualError
from relay.signrequests import SealRequest, new_request_id
from tests.relay.conftest import Runner, oracle_context
from tests.relay.test_sealer import HEAD, KEY, STATE, honest

SECONDS = 20


@contextmanager
def at_once(work: Callable[[], None]) -> Iterator[None]:
    """`work` in a thread, which must end soon after the block."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(SECONDS)
    assert not thread.is_alive()


@contextmanager
def connected(
    runner: Runner, max_in_flight: int = 64, heads: Heads | None = None, time: datetime | None = None
) -> Iterator[tuple[StraightWay, ssl.SSLSocket]]:
    """A welcomed client, and the oracle's end."""
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        for end in (ours, theirs):
            end.settimeout(SECONDS)
        server = oracle_context(runner.directory, runner.authority).wrap_socket(
            theirs, server_side=True, do_handshake_on_connect=False
        )
        stack.enter_context(server)
        with at_once(server.do_handshake):
            stream = tls_context(runner.config).wrap_socket(ours, server_hostname="localhost")
        stream.setblocking(False)
        now = time or datetime.now(UTC)
        welcome = Welcome(1, "node-a", "b1", "fake", now, (KEY,), max_in_flight, HEAD, fallback=False)
        way = StraightWay(stream, FrameReader(), welcome, heads or Heads(runner.config.state / "heads.json"))
        with contextlib.closing(way):
            yield way, server


def framed(*messages: FromOracle) -> bytes:
    return b"".join(encode_frame(FROM_ORACLE.encode(message)) for message in messages)


def asked(way: StraightWay) -> Seal:
    request = SealRequest(new_request_id(), KEY.facts.keygrip, STATE).message(1000)
    way.send(lambda: request, request.id)
    return request


def received(oracle: ssl.SSLSocket) -> FromRelay:
    reader = FrameReader()
    while (payload := reader.next_payload()) is None:
        reader.receive_data(oracle.recv(65_536))
    return FROM_RELAY.decode(payload)


def test_an_answer_that_nobody_asked_for_or_that_came_before_counts_for_nothing(runner: Runner) -> None:
    heads = Heads(runner.config.state / "heads.json")
    with connected(runner, heads=heads) as (way, oracle):
        request = asked(way)
        answer = honest(request)
        assert isinstance(answer, Sealed)
        to_nobody = replace(answer, id="0" * 32, head=replace(HEAD, node="node-b"))
        oracle.sendall(framed(to_nobody, answer, answer))
        assert way.receive() == [answer]
    assert heads.all() == (HEAD,)


def test_a_log_that_was_cut_and_a_clock_that_differs_are_told(runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
    heads = Heads(runner.config.state / "heads.json")
    heads.note(replace(HEAD, sequence=HEAD.sequence + 1))
    with connected(runner, heads=heads, time=datetime.now(UTC) - timedelta(hours=1)):
        assert "audit log was cut" in caplog.text
        assert "this clock and the oracle's differ" in caplog.text


def test_an_oracle_that_wants_nothing_at_once_gets_one_request_after_the_other(runner: Runner) -> None:
    with connected(runner, max_in_flight=0) as (way, oracle):
        request = asked(way)
        assert received(oracle) == request


def test_an_oracle_that_talks_without_end_is_read_in_parts(runner: Runner) -> None:
    chatter = framed(Pong("0" * 32)) * 2000
    with connected(runner) as (way, oracle):
        answer = honest(asked(way))
        oracle.sendall(chatter + framed(answer))
        assert way.receive() == []  # who waits can look at the clock
        waiting = select.poll()
        waiting.register(way, select.POLLIN)
        parts = 1
        while not (replies := way.receive()):
            parts += 1
            assert waiting.poll(SECONDS * 1000)
        assert replies == [answer]
        assert parts < len(chatter) // 16_384


@pytest.mark.parametrize("trouble", [b'{"type":"nonsense"}', b"{", FROM_ORACLE.encode(Drain())])
def test_what_follows_answers_and_is_not_as_usual_ends_the_way_behind_them(runner: Runner, trouble: bytes) -> None:
    with connected(runner, max_in_flight=1) as (way, oracle):
        first, *_ = [asked(way) for _ in range(3)]
        oracle.sendall(framed(honest(first)) + encode_frame(trouble))
        assert way.receive() == [honest(first)]
        for _ in range(2):
            with pytest.raises(UnusualError):
                way.receive()
        with pytest.raises(UnusualError):
            asked(way)


def test_a_request_that_waited_for_others_says_how_long_it_may_still_take(runner: Runner) -> None:
    left = 1000
    second = SealRequest(new_request_id(), KEY.facts.keygrip, STATE)
    with connected(runner, max_in_flight=1) as (way, oracle):
        first = asked(way)
        way.send(lambda: second.message(left), second.id)
        assert received(oracle) == first
        left = 100
        oracle.sendall(framed(honest(first)))
        assert way.receive() == [honest(first)]
        assert received(oracle) == second.message(100)


def test_an_oracle_that_says_much_and_not_which_key_is_not_waited_for(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(straight_module, "PATIENCE_SECONDS", 0.3)
    with connected(runner) as (way, oracle):

        def ping() -> None:
            with contextlib.suppress(OSError):
                while oracle.recv(65_536):  # the question, then each pong
                    oracle.sendall(framed(Ping("0" * 32)))

        def ask() -> None:
            with pytest.raises(UnusualError, match="in time"):
                way.select(SelectKey(new_request_id(), "el9-x86_64", None))

        with at_once(ping):
            with at_once(ask):
                pass
            oracle.shutdown(socket.SHUT_RDWR)
