"""The client on virtual time: deadlines, silence, back-off. The oracle's side of each stream is the test's own."""

import gc
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Head
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, PROTOCOL_VERSION, FromOracle, FromRelay
from agentproxy.protocol.oracle_messages import Certificate, Drain, Failed, Refused, Rejected, Signed, Welcome
from agentproxy.protocol.relay_messages import Hello, Ping, Pong, Sign
from agentproxy.protocol.signatures import EddsaSignature
from agentproxy.protocol.times import parse_time
from agentproxy.runtime.streams import FramedStream
from relay.client import Client
from relay.config import OracleAddress
from relay.errors import DeadlineError, LinkLostError, RejectedError, UnreachableError
from relay.headkeeping import TendedHeads
from relay.signrequests import SignRequest, new_request_id

Script = Callable[[FramedStream], Awaitable[None]]
WELCOME = Welcome(1, "a", "b1", "test", parse_time("2026-11-22T10:00:00.000000Z"), (), 8)


def request() -> SignRequest:
    return SignRequest(new_request_id(), Keygrip(bytes(20)), Digest(HashAlgorithm.SHA256, bytes(32)))


class Oracles:
    """Gives each connection to the next script; the last script serves all that follow."""

    def __init__(self, nursery: trio.Nursery, *scripts: Script | None) -> None:
        self._nursery = nursery
        self._scripts = list(scripts)
        self.times: list[float] = []

    def hello(self) -> Hello:
        return Hello(PROTOCOL_VERSION, "bo_token", "test")

    async def connect(self, oracle: OracleAddress) -> trio.abc.Stream:  # noqa: ARG002  the Protocol's form
        await trio.lowlevel.checkpoint()
        self.times.append(trio.current_time())
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if script is None:
            raise LinkLostError("connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, FramedStream(theirs), script)
        return ours

    async def _serve(self, framed: FramedStream, script: Script) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(framed.run_sender)
            await script(framed)
            framed.end_soon()
        await framed.aclose()


async def ignore_keys(_: tuple[ServedKey, ...]) -> None:
    await trio.lowlevel.checkpoint()


class NoHeads:
    """Remembers nothing."""

    def note(self, head: Head) -> None:
        assert head.sequence

    def welcomed(self, head: Head) -> None:
        assert head.sequence


def new_client(oracles: Oracles) -> Client:
    return Client((OracleAddress("oracle.example.org:7443", "oracle.example.org"),), oracles, ignore_keys, NoHeads())


def say(framed: FramedStream, message: FromOracle) -> None:
    framed.send_soon(FROM_ORACLE.encode(message))


async def hear(framed: FramedStream) -> FromRelay:
    return FROM_RELAY.decode((await framed.receive())[0])


async def welcome(framed: FramedStream) -> None:
    assert isinstance(await hear(framed), Hello)
    say(framed, WELCOME)


async def silent(framed: FramedStream) -> None:
    await welcome(framed)
    await trio.sleep_forever()


async def refusing(framed: FramedStream) -> None:
    await welcome(framed)
    while True:
        message = await hear(framed)
        if isinstance(message, Sign):
            say(framed, Refused(message.id, RefusalCode.FORBIDDEN, "no"))
        if isinstance(message, Ping):
            say(framed, Pong(message.id))


async def test_a_silent_oracle_is_left_early_enough_for_another_try(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = new_client(Oracles(nursery, silent, refusing))
        nursery.start_soon(client.run)
        answer = await client.sign(request(), 30.0)
        took = trio.current_time()
        nursery.cancel_scope.cancel()

    assert isinstance(answer, Refused)
    assert took < 20


async def test_what_hears_an_answer_may_fail_without_ending_the_connection_of_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    heard: list[object] = []

    def fail(answer: object) -> None:
        heard.append(answer)
        raise RuntimeError("a bug of the caller's own")

    async with trio.open_nursery() as nursery:
        oracles = Oracles(nursery, refusing)
        client = new_client(oracles)
        nursery.start_soon(client.run)
        with pytest.raises(RuntimeError, match="a bug of the caller's own"):
            await client.sign(request(), 30.0, fail)
        assert isinstance(await client.sign(request(), 30.0, heard.append), Refused)
        nursery.cancel_scope.cancel()

    assert [type(one) for one in heard] == [Refused, Refused]
    assert len(oracles.times) == 1


async def test_a_connection_that_answers_pings_is_kept_for_days(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        oracles = Oracles(nursery, refusing)
        nursery.start_soon(new_client(oracles).run)
        await trio.sleep(86_400)
        nursery.cancel_scope.cancel()

    assert len(oracles.times) == 1


async def test_an_oracle_that_says_nothing_at_all_is_left(autojump_clock: trio.testing.MockClock) -> None:
    async def mute(_: FramedStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        client = new_client(Oracles(nursery, mute, refusing))
        nursery.start_soon(client.run)
        answer = await client.sign(request(), 30.0)
        nursery.cancel_scope.cancel()

    assert isinstance(answer, Refused)


async def test_without_an_oracle_the_wait_ends_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = new_client(Oracles(nursery, None))
        nursery.start_soon(client.run)
        with pytest.raises(UnreachableError, match="connection refused"):
            await client.sign(request(), 30.0)
        took = trio.current_time()
        nursery.cancel_scope.cancel()

    assert took == pytest.approx(30.0)


async def test_the_client_knows_since_when_no_oracle_has_been_there(autojump_clock: trio.testing.MockClock) -> None:
    async def leaving(framed: FramedStream) -> None:
        await welcome(framed)
        await trio.sleep(15)

    async with trio.open_nursery() as nursery:
        client = new_client(Oracles(nursery, leaving, None))
        started = trio.current_time()
        since = [client.unreachable_since]
        nursery.start_soon(client.run)
        for _ in range(2):
            await trio.sleep(12)
            since.append(client.unreachable_since)
        nursery.cancel_scope.cancel()

    assert since == [started, None, pytest.approx(started + 15, abs=1)]


async def test_an_oracle_that_has_the_request_and_is_slow_leads_to_another_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def pondering(framed: FramedStream) -> None:
        await welcome(framed)
        while True:
            message = await hear(framed)
            if isinstance(message, Ping):
                say(framed, Pong(message.id))

    async with trio.open_nursery() as nursery:
        client = new_client(Oracles(nursery, pondering))
        nursery.start_soon(client.run)
        with pytest.raises(DeadlineError):
            await client.sign(request(), 30.0)
        nursery.cancel_scope.cancel()


async def test_an_oracle_that_is_away_is_not_hammered(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        oracles = Oracles(nursery, None)
        nursery.start_soon(new_client(oracles).run)
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()

    assert 200 < len(oracles.times) < 600


async def test_somebody_who_waits_makes_the_next_try_come_sooner(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        oracles = Oracles(nursery, *[None] * 12, refusing)
        client = new_client(oracles)
        nursery.start_soon(client.run)
        await trio.sleep(70)  # far into the back-off
        asked = trio.current_time()
        answer = await client.sign(request(), 30.0)
        took = trio.current_time() - asked
        nursery.cancel_scope.cancel()

    assert isinstance(answer, Refused)
    assert took < 10


async def test_requests_that_nobody_answers_do_not_fill_the_window_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def forgetful(framed: FramedStream) -> None:
        await welcome(framed)
        forgotten = 0
        while True:
            for payload in await framed.receive():
                message = FROM_RELAY.decode(payload)
                if isinstance(message, Ping):
                    say(framed, Pong(message.id))
                if isinstance(message, Sign):
                    forgotten += 1
                    if forgotten > WELCOME.max_in_flight:
                        say(framed, Refused(message.id, RefusalCode.FORBIDDEN, "no"))

    async with trio.open_nursery() as nursery:
        client = new_client(Oracles(nursery, forgetful))
        nursery.start_soon(client.run)
        for _ in range(WELCOME.max_in_flight):
            with pytest.raises(DeadlineError):
                await client.sign(request(), 1.0)
        answer = await client.sign(request(), 30.0)
        nursery.cancel_scope.cancel()

    assert isinstance(answer, Refused)


@pytest.mark.parametrize(("away_seconds", "expected"), [(3.0, Refused), (10.0, Failed)])
async def test_a_signer_may_take_three_seconds_to_come_back(
    away_seconds: float, expected: type[Failed | Refused], autojump_clock: trio.testing.MockClock
) -> None:
    back = trio.current_time() + away_seconds

    async def signerless(framed: FramedStream) -> None:
        await welcome(framed)
        while True:
            message = await hear(framed)
            if isinstance(message, Sign) and trio.current_time() < back:
                say(framed, Failed(message.id, FailureCode.NOT_OPERATIONAL, retryable=True))
            elif isinstance(message, Sign):
                say(framed, Refused(message.id, RefusalCode.FORBIDDEN, "no"))
            if isinstance(message, Ping):
                say(framed, Pong(message.id))

    async with trio.open_nursery() as nursery:
        client = new_client(Oracles(nursery, signerless))
        nursery.start_soon(client.run)
        answer = await client.sign(request(), 30.0)
        nursery.cancel_scope.cancel()

    assert isinstance(answer, expected)


async def test_the_oracle_s_last_word_on_an_open_stream_is_the_reason_that_everybody_hears_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def revoking(framed: FramedStream) -> None:
        await welcome(framed)
        while not isinstance(await hear(framed), Sign):
            pass
        say(framed, Rejected(RejectionCode.TOKEN_REVOKED))

    async def rejecting(framed: FramedStream) -> None:
        assert isinstance(await hear(framed), Hello)
        say(framed, Rejected(RejectionCode.TOKEN_REVOKED))

    caplog.set_level(logging.WARNING)
    async with trio.open_nursery() as nursery:
        oracles = Oracles(nursery, revoking, rejecting)
        client = new_client(oracles)
        nursery.start_soon(client.run)
        with pytest.raises(RejectedError) as rejected:
            await client.sign(request(), 30.0)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()

    assert rejected.value.code is RejectionCode.TOKEN_REVOKED
    assert len(oracles.times) > 2
    reasons = [message.partition("reason=")[2] for message in caplog.messages if "reason=" in message]
    assert reasons == ["this token was revoked"]


async def test_parts_of_a_certificate_that_another_answer_cuts_off_are_not_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked: set[str] = set()

    async def hoarding(framed: FramedStream) -> None:
        await welcome(framed)
        while True:
            message = await hear(framed)
            if isinstance(message, Sign):
                asked.add(message.id)
                say(framed, Certificate(message.id, 1, 2, bytes(16_384)))
                say(framed, Refused(message.id, RefusalCode.FORBIDDEN, "no"))

    async with trio.open_nursery() as nursery:
        client = new_client(Oracles(nursery, hoarding))
        nursery.start_soon(client.run)
        for _ in range(64):
            assert isinstance(await client.sign(request(), 30.0), Refused)
        gc.collect()
        kept = sum(isinstance(one, Certificate) and one.id in asked for one in gc.get_objects())
        nursery.cancel_scope.cancel()

    assert (len(asked), kept) == (64, 0)


async def test_what_nobody_asked_for_moves_no_end_of_a_log_and_fills_none(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay")
    signature, answered = EddsaSignature(bytes(32), bytes(32)), Head("a", 5, bytes(32))

    async def talkative(framed: FramedStream) -> None:
        await welcome(framed)
        asked = await hear(framed)
        assert isinstance(asked, Sign)
        for number in range(100):
            say(framed, Signed(f"{number:032x}", signature, Head(f"n{number}", 1, bytes(32))))
            say(framed, Drain())
        say(framed, Signed(asked.id, signature, answered))

    other = Head("b", 9, bytes(32))
    heads = TendedHeads(tmp_path / "heads.json")
    heads.note(other)
    async with trio.open_nursery() as nursery:
        oracles = Oracles(nursery, talkative, None)
        client = Client((OracleAddress("oracle.example.org:7443", "oracle.example.org"),), oracles, ignore_keys, heads)
        nursery.start_soon(client.run)
        assert isinstance(await client.sign(request(), 30.0), Signed)
        nursery.cancel_scope.cancel()

    assert heads.all() == (other, answered)
    assert caplog.text.count("the oracle goes away for maintenance, node=a") == 1
