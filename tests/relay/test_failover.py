"""Several oracles on virtual time: who is asked, when another one is, and that nobody waits beyond its deadline."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.fields import Head
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, PROTOCOL_VERSION, FromOracle
from agentproxy.protocol.oracle_messages import (
    Certificate,
    Drain,
    Failed,
    KeysChanged,
    Refused,
    Rejected,
    Signed,
    Welcome,
)
from agentproxy.protocol.relay_messages import FetchCertificate, Hello, Ping, Pong, Sign
from agentproxy.protocol.signatures import RsaSignature
from agentproxy.protocol.times import parse_time
from agentproxy.runtime.streams import EndOfStream, FramedStream
from relay.client import Client
from relay.config import OracleAddress
from relay.connectionstate import Standing
from relay.errors import LinkLostError, RejectedError, UnreachableError
from relay.signrequests import SignRequest
from relay.ways import DOWN_SECONDS
from tests.oracle.samples import LEGACY, MODERN
from tests.relay.test_client import NoHeads, request

TIME = parse_time("2026-11-22T10:00:00.000000Z")
Answerer = Callable[["FakeNode", Sign], Awaitable[FromOracle | None]]


async def sign(node: "FakeNode", asked: Sign) -> FromOracle | None:
    await trio.lowlevel.checkpoint()
    return Signed(asked.id, RsaSignature(b"\x01" * 256), Head(node.name, 1, bytes(32)))


async def ponder(_: "FakeNode", __: Sign) -> FromOracle | None:
    await trio.lowlevel.checkpoint()
    return None


def fail(code: FailureCode, *, retryable: bool) -> Answerer:
    async def answer(_: "FakeNode", asked: Sign) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        return Failed(asked.id, code, retryable)

    return answer


@dataclass
class FakeNode:
    """One oracle: the test says how it is."""

    name: str
    is_up: bool = True
    is_silent: bool = False  # it takes everything and says nothing, as behind a cut cable
    rejection: Rejected | None = None
    keys: tuple[ServedKey, ...] = ()
    certificate: bytes | None = None
    answer: Answerer = sign
    asked: list[Sign] = field(default_factory=list)
    hellos: list[float] = field(default_factory=list)
    open: list[FramedStream] = field(default_factory=list)
    greeted: trio.Event = field(default_factory=trio.Event)

    async def serve(self, framed: FramedStream) -> None:
        self.open.append(framed)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(framed.run_sender)
                await self._read(framed)
                nursery.cancel_scope.cancel()
        except* (EndOfStream, trio.ClosedResourceError):
            pass
        finally:
            self.open.remove(framed)

    async def _read(self, framed: FramedStream) -> None:
        while True:
            for payload in await framed.receive():
                answer = await self._answered(FROM_RELAY.decode(payload))
                if answer is not None and not self.is_silent:
                    framed.send_soon(FROM_ORACLE.encode(answer))

    async def _answered(self, message: object) -> FromOracle | None:
        match message:
            case Hello():
                self.hellos.append(trio.current_time())
                self.greeted.set()
                return self.rejection or Welcome(1, self.name, "b1", "test", TIME, self.keys, 8)
            case Ping():
                return Pong(message.id)
            case FetchCertificate() if self.certificate is None:
                return Failed(message.id, FailureCode.BACKEND, retryable=True)
            case FetchCertificate():
                return Certificate(message.id, 1, 1, self.certificate)
            case Sign():
                self.asked.append(message)
                return await self.answer(self, message)
        return None

    def say(self, message: FromOracle) -> None:
        for framed in self.open:
            framed.send_soon(FROM_ORACLE.encode(message))

    async def die(self) -> None:
        self.is_up = False
        for framed in tuple(self.open):
            await framed.aclose()


@dataclass
class Nodes:
    """Dials the nodes by name."""

    nursery: trio.Nursery
    by_name: dict[str, FakeNode]

    def hello(self) -> Hello:
        return Hello(PROTOCOL_VERSION, "bo_token", "test")

    async def connect(self, oracle: OracleAddress) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        node = self.by_name[oracle.host]
        if not node.is_up:
            raise LinkLostError("Connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(node.serve, FramedStream(theirs))
        return ours


@dataclass
class World:
    """A client and its oracles, named a, b, …"""

    client: Client
    nodes: list[FakeNode]
    keys: list[tuple[ServedKey, ...]]

    def standings(self) -> list[Standing]:
        return [state.standing for state in self.client.oracles]

    async def signer(self, seconds: float = 30.0) -> str:
        """The name of the node whose signature comes."""
        answer = await self.client.sign(request(), seconds)
        assert isinstance(answer, Signed)
        return answer.head.node

    def start(self, nursery: trio.Nursery, count: int) -> list[str]:
        """Ask for so many signatures at once; the list gets their nodes."""
        signers: list[str] = []

        async def one() -> None:
            signers.append(await self.signer())

        for _ in range(count):
            nursery.start_soon(one)
        return signers


@asynccontextmanager
async def world(*names: str, nodes: list[FakeNode] | None = None) -> AsyncIterator[World]:
    made = nodes or [FakeNode(name) for name in names]
    keys: list[tuple[ServedKey, ...]] = []

    async def arrived(served: tuple[ServedKey, ...]) -> None:
        await trio.lowlevel.checkpoint()
        keys.append(served)

    async with trio.open_nursery() as nursery:
        dial = Nodes(nursery, {node.name: node for node in made})
        oracles = [OracleAddress(f"{node.name}:7443", node.name) for node in made]
        client = Client(oracles, dial, arrived, NoHeads())
        nursery.start_soon(client.run)
        await trio.sleep(1)
        yield World(client, made, keys)
        nursery.cancel_scope.cancel()


async def test_the_first_oracle_is_asked_and_the_second_kept_warm(autojump_clock: trio.testing.MockClock) -> None:
    async with world("a", "b", "c") as w:
        assert await w.signer() == "a"
        assert w.standings() == [Standing.BEST, Standing.WARM, Standing.SPARE]
        await trio.sleep(86_400)
        assert w.standings() == [Standing.BEST, Standing.WARM, Standing.SPARE]
        assert [len(node.hellos) for node in w.nodes] == [1, 1, 0]


async def test_when_an_oracle_dies_its_requests_go_to_the_next_with_their_ids(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        a, b = w.nodes
        a.answer = ponder
        async with trio.open_nursery() as nursery:
            signers = w.start(nursery, 5)
            await trio.testing.wait_all_tasks_blocked()
            await a.die()
            died = trio.current_time()

        assert trio.current_time() - died < 0.1
        assert signers == ["b"] * 5
        assert [asked.id for asked in b.asked] == [asked.id for asked in a.asked]
        assert w.client.moved == 5
        assert w.standings() == [Standing.AWAY, Standing.BEST]


async def test_the_work_returns_when_the_first_oracle_has_been_well_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        a, _ = w.nodes
        await a.die()
        await trio.sleep(60)
        assert await w.signer() == "b"
        assert w.standings() == [Standing.AWAY, Standing.BEST]
        a.greeted = trio.Event()
        a.is_up = True
        with trio.fail_after(16):  # the longest pause between two tries
            await a.greeted.wait()
        assert await w.signer() == "b"
        await trio.sleep(11)
        assert await w.signer() == "a"
        assert w.standings() == [Standing.BEST, Standing.WARM]


async def test_an_oracle_that_greets_and_dies_does_not_draw_the_work_to_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        a, _ = w.nodes
        await a.die()
        for _ in range(100):
            a.is_up = True
            await trio.sleep(3)
            assert await w.signer() == "b"
            await a.die()


async def test_a_draining_oracle_finishes_what_it_has_while_new_requests_go_to_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        a, b = w.nodes
        gate = trio.Event()

        async def slowly(node: FakeNode, asked: Sign) -> FromOracle | None:
            await gate.wait()
            return await sign(node, asked)

        a.answer = slowly
        async with trio.open_nursery() as nursery:
            first = w.start(nursery, 1)
            await trio.testing.wait_all_tasks_blocked()
            a.is_up = False
            a.say(Drain())
            await trio.testing.wait_all_tasks_blocked()
            assert w.standings() == [Standing.DRAINING, Standing.BEST]
            assert await w.signer() == "b"
            gate.set()

        assert first == ["a"]
        assert (len(a.asked), len(b.asked)) == (1, 1)
        await trio.sleep(5)
        assert w.standings() == [Standing.AWAY, Standing.BEST]


async def test_an_oracle_that_is_not_operational_costs_a_round_trip_and_is_asked_second_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        a, b = w.nodes
        a.answer = fail(FailureCode.NOT_OPERATIONAL, retryable=True)
        started = trio.current_time()
        assert [await w.signer() for _ in range(10)] == ["b"] * 10
        assert trio.current_time() - started < 0.1
        assert len(a.asked) == 1
        assert a.asked[0].id == b.asked[0].id
        assert w.standings() == [Standing.AILING, Standing.BEST]
        assert w.client.oracles[0].problem == "the oracle is not operational"

        a.answer = sign
        await trio.sleep(6)
        assert await w.signer() == "a"
        assert w.standings() == [Standing.BEST, Standing.WARM]


async def test_an_oracle_that_stays_ill_is_asked_ever_less_often(autojump_clock: trio.testing.MockClock) -> None:
    async with world("a", "b") as w:
        w.nodes[0].answer = fail(FailureCode.NOT_OPERATIONAL, retryable=True)
        for _ in range(600):
            assert await w.signer() == "b"
            await trio.sleep(1)
        assert len(w.nodes[0].asked) < 20


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        (FailureCode.BACKEND, True),
        (FailureCode.KEY_UNAVAILABLE, False),
        (FailureCode.BAD_SIGNATURE, False),
        (FailureCode.INTERNAL, False),
    ],
)
async def test_what_fails_at_one_node_is_tried_at_the_other(
    code: FailureCode, retryable: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with world("a", "b") as w:
        w.nodes[0].answer = fail(code, retryable=retryable)
        assert await w.signer() == "b"
        w.nodes[1].answer = fail(FailureCode.KEY_UNAVAILABLE, retryable=False)
        answer = await w.client.sign(request(), 30.0)
    assert isinstance(answer, Failed)


async def test_a_refusal_is_final(autojump_clock: trio.testing.MockClock) -> None:
    async def refuse(_: FakeNode, asked: Sign) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        return Refused(asked.id, RefusalCode.RATE_LIMITED, "too many", 100)

    async with world("a", "b") as w:
        w.nodes[0].answer = refuse
        assert isinstance(await w.client.sign(request(), 30.0), Refused)
        assert w.nodes[1].asked == []


async def test_an_oracle_that_answers_pings_and_no_request_is_passed_by(autojump_clock: trio.testing.MockClock) -> None:
    async with world("a", "b") as w:
        a, b = w.nodes
        a.answer = ponder
        started = trio.current_time()
        assert await w.signer(10.0) == "b"
        assert trio.current_time() - started == pytest.approx(5.0)
        assert await w.signer(1.0) == "b"  # the next one does not wait for it at all
        assert a.asked[0].id == b.asked[0].id
        assert "answered nothing" in w.client.oracles[0].problem


async def test_an_oracle_is_not_ill_because_of_a_request_that_nobody_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        a, b = w.nodes
        a.answer = ponder
        with trio.move_on_after(1):  # gpg was killed
            await w.signer(30.0)
        await trio.sleep(15)
        a.answer = sign
        assert await w.signer(30.0) == "a"
        assert not b.asked
        assert w.client.oracles[0].standing is Standing.BEST


async def test_a_slow_oracle_that_answers_others_is_busy_and_keeps_its_requests(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def two_seconds_each(node: FakeNode, asked: Sign) -> FromOracle | None:
        await trio.sleep(2)
        return await sign(node, asked)

    async with world("a", "b") as w:
        w.nodes[0].answer = two_seconds_each
        async with trio.open_nursery() as nursery:
            signers = w.start(nursery, 8)
        assert signers == ["a"] * 8


async def test_half_open_connections_cost_half_a_deadline_and_no_signature(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        await trio.sleep(100)
        w.nodes[0].is_silent = True  # its host is gone without a word
        started = trio.current_time()
        assert await w.signer(10.0) == "b"
        assert trio.current_time() - started <= 5.0
        await trio.sleep(60)
        assert w.client.oracles[0].standing is Standing.AWAY


async def test_two_minutes_without_a_network_end_each_wait_at_its_deadline_and_then_all_is_well(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        for node in w.nodes:
            node.is_silent = True
        ends: list[float] = []

        async def one() -> None:
            started = trio.current_time()
            with pytest.raises(UnreachableError):
                await w.client.sign(request(), 30.0)
            ends.append(trio.current_time() - started)

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(one)
                await trio.sleep(10)
        assert ends == [pytest.approx(30.0)] * 12
        assert w.client.unreachable_since is not None
        for node in w.nodes:
            node.is_silent = False
        back = trio.current_time()
        assert await w.signer() in {"a", "b"}
        assert trio.current_time() - back < 20.0
        assert w.client.unreachable_since is None


async def test_after_two_minutes_a_request_finds_the_oracle_within_its_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a") as w:
        await w.nodes[0].die()
        await trio.sleep(120)
        w.nodes[0].is_up = True
        assert await w.signer(10.0) == "a"


async def test_a_third_oracle_stands_in_and_is_left_when_two_are_well(autojump_clock: trio.testing.MockClock) -> None:
    async with world("a", "b", "c") as w:
        a, b, c = w.nodes
        await a.die()
        await trio.sleep(1)
        assert w.standings() == [Standing.AWAY, Standing.BEST, Standing.WARM]
        await b.die()
        assert await w.signer() == "c"
        a.is_up = b.is_up = True
        await trio.sleep(120)
        assert w.standings() == [Standing.BEST, Standing.WARM, Standing.SPARE]
        assert c.open == []


async def test_one_that_rejects_this_relay_leaves_it_to_the_other(autojump_clock: trio.testing.MockClock) -> None:
    nodes = [FakeNode("a", rejection=Rejected(RejectionCode.NOT_OPERATIONAL)), FakeNode("b")]
    async with world(nodes=nodes) as w:
        assert await w.signer() == "b"
        assert w.client.oracles[0].problem == "the oracle is not operational"


async def test_when_all_reject_this_relay_nobody_waits(autojump_clock: trio.testing.MockClock) -> None:
    nodes = [FakeNode(name, rejection=Rejected(RejectionCode.TOKEN_REVOKED)) for name in "ab"]
    async with world(nodes=nodes) as w:
        with pytest.raises(RejectedError), trio.fail_after(5):
            await w.client.sign(request(), 30.0)


async def test_one_that_is_not_operational_for_a_moment_fails_nobody(autojump_clock: trio.testing.MockClock) -> None:
    (only,) = nodes = [FakeNode("a")]
    async with world(nodes=nodes) as w:
        only.rejection = Rejected(RejectionCode.NOT_OPERATIONAL)  # to whoever comes, while its registry starts
        await only.die()
        only.is_up = True
        async with trio.open_nursery() as nursery:
            signers = w.start(nursery, 3)
            await trio.sleep(2)
            only.rejection = None
        assert signers == ["a"] * 3


async def test_one_that_stays_not_operational_ends_the_waiting(autojump_clock: trio.testing.MockClock) -> None:
    (only,) = nodes = [FakeNode("a", is_up=False)]
    async with world(nodes=nodes) as w:
        await trio.sleep(600)
        only.is_up, only.rejection = True, Rejected(RejectionCode.NOT_OPERATIONAL)
        began = trio.current_time()
        with pytest.raises(RejectedError, match="not operational"):
            await w.client.sign(request(), 60.0)
        assert DOWN_SECONDS <= trio.current_time() - began < 3 * DOWN_SECONDS
        began = trio.current_time()
        with pytest.raises(RejectedError, match="not operational"):
            await w.client.sign(request(), 60.0)
        assert trio.current_time() - began < DOWN_SECONDS


async def test_one_that_is_not_operational_and_one_that_is_away_are_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    nodes = [FakeNode("a", rejection=Rejected(RejectionCode.NOT_OPERATIONAL)), FakeNode("b", is_up=False)]
    async with world(nodes=nodes) as w:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.signer)
            await trio.sleep(10)
            nodes[1].is_up = True
    assert len(nodes[1].asked) == 1


async def test_the_keys_are_those_of_the_oracle_in_use(autojump_clock: trio.testing.MockClock) -> None:
    modern, legacy = ServedKey(MODERN, "modern"), ServedKey(LEGACY, "legacy")
    nodes = [FakeNode("a", keys=(modern, legacy)), FakeNode("b", keys=(modern,))]
    async with world(nodes=nodes) as w:
        assert w.keys[-1] == (modern, legacy)
        nodes[1].say(KeysChanged((legacy,)))
        await trio.sleep(1)
        assert w.keys[-1] == (modern, legacy)
        await nodes[0].die()
        await trio.sleep(1)
        assert w.keys[-1] == (legacy,)


async def test_two_addresses_of_one_oracle_are_no_second_oracle_and_the_log_says_so(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [FakeNode("a"), FakeNode("b")]
    nodes[1].serve = nodes[0].serve  # type: ignore[method-assign]  the second address leads to the first node
    async with world(nodes=nodes):
        await trio.sleep(1)
    assert [line for line in caplog.messages if "two addresses lead to one oracle" in line]


async def test_an_oracle_that_is_away_for_a_night_is_one_line_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world("a", "b") as w:
        caplog.set_level(logging.WARNING)
        await w.nodes[0].die()
        for _ in range(60):
            await trio.sleep(600)
            assert await w.signer() == "b"
    assert sum("no connection to the oracle" in line for line in caplog.messages) <= 2
    assert len(w.nodes[0].hellos) == 1


async def test_a_request_says_which_nodes_had_it(autojump_clock: trio.testing.MockClock) -> None:
    async with world("a", "b") as w:
        w.nodes[0].answer = fail(FailureCode.BACKEND, retryable=True)
        asked: SignRequest = request()
        assert isinstance(await w.client.sign(asked, 30.0), Signed)
    assert asked.sent_to == ["a", "b"]


async def test_the_window_of_a_dead_oracle_does_not_bind_the_next(autojump_clock: trio.testing.MockClock) -> None:
    async with world("a", "b") as w:
        w.nodes[0].answer = ponder
        async with trio.open_nursery() as nursery:
            signers = w.start(nursery, 200)
            await trio.testing.wait_all_tasks_blocked()
            assert len(w.nodes[0].asked) == 8
            await w.nodes[0].die()
        assert signers == ["b"] * 200
        assert len({asked.id for asked in w.nodes[1].asked}) == 200


async def test_a_late_failure_of_an_oracle_that_hung_does_not_end_the_wait_for_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def fail_after_six_seconds(_: FakeNode, asked: Sign) -> FromOracle | None:
        await trio.sleep(6)
        return Failed(asked.id, FailureCode.BACKEND, retryable=False)

    async def sign_after_three_seconds(node: FakeNode, asked: Sign) -> FromOracle | None:
        await trio.sleep(3)
        return await sign(node, asked)

    async with world("a", "b") as w:
        w.nodes[0].answer, w.nodes[1].answer = fail_after_six_seconds, sign_after_three_seconds
        assert await w.signer() == "b"


async def test_what_nobody_waits_for_any_more_does_not_go_to_the_next_oracle(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        a, b = w.nodes
        a.answer = ponder
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.signer)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()  # its gpg is gone
        await a.die()
        await trio.sleep(60)
        assert (len(a.asked), len(b.asked)) == (1, 0)


async def test_a_request_that_expired_goes_nowhere_any_more(autojump_clock: trio.testing.MockClock) -> None:
    async with world("a", "b") as w:
        a, b = w.nodes
        await a.die()
        await b.die()
        with pytest.raises(UnreachableError):
            await w.client.sign(request(), 2.0)
        a.is_up = b.is_up = True
        await trio.sleep(60)
        assert (a.asked, b.asked) == ([], [])


async def test_what_is_left_of_the_deadline_goes_along_to_the_next_oracle(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world("a", "b") as w:
        a, b = w.nodes
        a.answer = ponder
        assert await w.signer(30.0) == "b"
    assert a.asked[0].remaining_ms == 30_000
    assert b.asked[0].remaining_ms == 25_000


async def test_the_certificate_that_one_oracle_cannot_give_comes_from_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world(nodes=[FakeNode("a"), FakeNode("b", certificate=b"certificate")]) as w:
        assert await w.client.certificate(MODERN.fingerprint) == b"certificate"


class KeeperOfPermission:
    """A permission's keeper, which notes in which order it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def told(self, node: str, *, allowed: bool) -> None:
        await trio.lowlevel.checkpoint()
        self.heard.append(f"{node} {'allows' if allowed else 'forbids'}")

    async def rejected(self, error: RejectedError) -> None:
        await trio.lowlevel.checkpoint()
        self.heard.append(error.code.value)


async def test_a_permission_that_waits_behind_a_slow_disk_is_not_told_after_it_was_taken_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    only, keeper, writes = FakeNode("a"), KeeperOfPermission(), 0

    async def write_slowly(_: tuple[ServedKey, ...]) -> None:
        nonlocal writes
        writes += 1
        await trio.sleep(2 if writes > 1 else 0)

    async with trio.open_nursery() as nursery:
        dial = Nodes(nursery, {"a": only})
        client = Client([OracleAddress("a:7443", "a")], dial, write_slowly, NoHeads(), permission=keeper)
        nursery.start_soon(client.run)
        await trio.sleep(1)
        only.say(KeysChanged((ServedKey(MODERN, "modern"),), fallback=True))
        await trio.sleep(0.1)
        only.say(KeysChanged((), fallback=True))  # while the list before it is still being written
        await trio.sleep(0.1)
        only.rejection = Rejected(RejectionCode.RUNNER_DISABLED)
        only.say(only.rejection)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert keeper.heard[:3] == ["a forbids", "a allows", "a allows"]
    assert set(keeper.heard[3:]) == {"runner_disabled"}
