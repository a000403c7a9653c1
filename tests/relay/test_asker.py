"""The straight way and the detour, with an oracle behind real TLS that does what each test wants."""

import contextlib
import os
import select
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import pytest
import trio

from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.key_messages import SelectedKey
from agentproxy.protocol.messages import FromOracle
from agentproxy.protocol.oracle_messages import Drain, Failed, KeysChanged, Refused, Rejected
from agentproxy.protocol.relay_messages import Hello, Ping, Pong
from agentproxy.protocol.seal_messages import Seal, Sealed
from relay.config import OracleAddress
from relay.credentials import CredentialStore
from relay.errors import DeadlineError, RejectedError, UnreachableError
from relay.heads import Heads
from relay.sealed import asker as asker_module
from relay.sealed import straight as straight_module
from relay.sealed.asker import Answer, Asker, open_asker
from relay.sealed.errors import NotSealedError
from relay.sealed.keychoice import KeyWanted
from relay.sealed.sealer import Sealer
from relay.sealed.straight import UnusualError, open_straight
from relay.signrequests import SealRequest, new_request_id
from tests.relay.conftest import Runner, lasting
from tests.relay.test_sealer import EL9, EL10, HEAD, KEY, honest, seal_of

SECONDS = 60
T = TypeVar("T")


async def answered(request: Seal) -> FromOracle | None:
    await trio.lowlevel.checkpoint()
    return honest(request)


async def unanswered(_: Seal) -> FromOracle | None:
    await trio.lowlevel.checkpoint()
    return None


@pytest.fixture(name="served")
def runner_of_an_oracle_that_seals(runner: Runner) -> Runner:
    runner.oracle.keys = (KEY,)
    runner.oracle.seal = answered
    return runner


@asynccontextmanager
async def asking(runner: Runner) -> AsyncIterator[Asker]:
    """An asker, for use in threads."""
    async with runner.running_oracle():
        opened = open_asker(runner.config)
        asker = await in_thread(opened.__enter__)
        yield asker
        await in_thread(lambda: opened.__exit__(None, None, None))


async def in_thread(work: Callable[[], T]) -> T:
    with trio.fail_after(SECONDS):
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def state_of(number: int) -> HashState:
    return HashState.initial(HashAlgorithm.SHA256).updated(str(number).encode())


def ask(asker: Asker, count: int = 1) -> dict[str, HashState]:
    """The states that signatures are asked for, by request."""
    requests = [SealRequest(new_request_id(), KEY.facts.keygrip, state_of(number)) for number in range(count)]
    for request in requests:
        asker.ask(KEY, request)
    return {request.id: request.state for request in requests}


def take(asker: Asker, count: int = 1) -> dict[str, Sealed | Exception]:
    found: dict[str, Sealed | Exception] = {}
    while len(found) < count:
        found.update(asker.answers())
    return found


async def came_of(asker: Asker, count: int = 1) -> list[Sealed | Exception]:
    await in_thread(lambda: ask(asker, count))
    return list((await in_thread(lambda: take(asker, count))).values())


async def test_many_requests_are_answered_over_one_connection_each_with_its_own(served: Runner) -> None:
    async with asking(served) as asker:
        assert asker.choose(KeyWanted(name="modern")) == KEY
        states = await in_thread(lambda: ask(asker, 100))
        answers = await in_thread(lambda: take(asker, 100))
        assert asker._detour is None
    assert {request_id: sealed(answer).seal for request_id, answer in answers.items()} == {
        request_id: seal_of(state) for request_id, state in states.items()
    }
    assert served.oracle.connections == 1


def sealed(answer: Sealed | Exception) -> Sealed:
    assert isinstance(answer, Sealed)
    return answer


async def test_no_more_requests_are_under_way_than_the_oracle_wants(served: Runner) -> None:
    most = 0

    async def counted(request: Seal) -> FromOracle | None:
        nonlocal most
        most = max(most, len(served.oracle.seals) - len(answers))
        answers.append(request.id)
        return await answered(request)

    answers: list[str] = []
    served.oracle.seal = counted
    served.oracle.max_in_flight = 3
    async with asking(served) as asker:
        assert len(await came_of(asker, 20)) == 20
    assert 1 <= most <= 3


async def test_requests_that_wait_for_others_tell_the_oracle_how_long_they_may_still_take(served: Runner) -> None:
    served.oracle.max_in_flight = 1
    async with asking(served) as asker:
        assert len(await came_of(asker, 20)) == 20
    first, *_, last = served.oracle.seals
    assert last.remaining_ms < first.remaining_ms <= served.config.deadline_seconds * 1000


async def test_which_of_several_keys_is_for_a_distribution_says_the_oracle(served: Runner) -> None:
    served.oracle.keys = (EL9, EL10)
    wanted = KeyWanted(distribution="el9-x86_64")
    several = replace(EL10, distributions=("el9-*",))
    served.oracle.keys = (EL9, several)
    served.oracle.select = lambda question: SelectedKey(question.id, several)
    async with asking(served) as asker:
        assert (await in_thread(lambda: asker.choose(wanted))) == several
    served.oracle.select = lambda question: Refused(question.id, RefusalCode.DISTRIBUTION_MISSING, "none")
    async with asking(served) as asker:
        with pytest.raises(ConfigError, match="which key is for el9-x86_64"):
            await in_thread(lambda: asker.choose(wanted))
        assert asker._detour is None


async def test_a_refusal_is_final_and_a_limit_is_waited_for_by_the_detour(served: Runner) -> None:
    async def refused(request: Seal) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        return Refused(request.id, RefusalCode.DISTRIBUTION_FORBIDDEN, "not for el9")

    async def limited(request: Seal) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        asked = [one.id for one in served.oracle.seals].count(request.id)
        return Refused(request.id, RefusalCode.RATE_LIMITED, "10 a minute", 100) if asked < 3 else honest(request)

    served.oracle.seal = refused
    async with asking(served) as asker:
        (answer,) = await came_of(asker)
        assert isinstance(answer, NotSealedError)
        assert (str(answer), answer.code) == ("not for el9", "distribution_forbidden")
        assert asker._detour is None

        served.oracle.seal = limited
        assert all(isinstance(answer, Sealed) for answer in await came_of(asker, 3))
    assert served.oracle.connections == 2


async def test_what_an_oracle_failed_is_asked_again_under_the_same_id(served: Runner) -> None:
    async def failed(request: Seal) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        asked = [one.id for one in served.oracle.seals].count(request.id)
        return Failed(request.id, FailureCode.BACKEND, retryable=True) if asked < 2 else honest(request)

    served.oracle.seal = failed
    async with asking(served) as asker:
        (answer,) = await came_of(asker)
    assert isinstance(answer, Sealed)
    assert len({request.id for request in served.oracle.seals}) == 1


async def test_what_was_under_way_when_a_connection_broke_goes_over_another_one(served: Runner) -> None:
    async def broken(_: Seal) -> FromOracle | None:
        if len(served.oracle.seals) == 3:
            served.oracle.seal = answered
            for stream in list(served.oracle.open):
                await stream.aclose()
        await trio.lowlevel.checkpoint()
        return None

    served.oracle.seal = broken
    async with asking(served) as asker:
        answers = await came_of(asker, 3)
        assert all(isinstance(answer, Sealed) for answer in answers)
        assert isinstance((await came_of(asker))[0], Sealed)
    ids = [request.id for request in served.oracle.seals]
    assert sorted(ids[:3]) == sorted(ids[3:6])
    assert served.oracle.connections == 2


async def test_an_oracle_that_goes_away_answers_what_it_has_and_gets_nothing_more(served: Runner) -> None:
    held: list[Seal] = []
    is_held = trio.Event()

    async def hold(request: Seal) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        held.append(request)
        is_held.set()
        return None

    served.oracle.seal = hold
    async with asking(served) as asker:
        await in_thread(lambda: ask(asker))
        with trio.fail_after(SECONDS):
            await is_held.wait()
        served.oracle.seal = answered
        served.oracle.tell(Drain())
        served.oracle.tell(honest(held[0]))
        (first,) = (await in_thread(lambda: take(asker))).values()
        assert sealed(first).id == held[0].id
        assert served.oracle.connections == 1
        assert isinstance((await came_of(asker))[0], Sealed)
    assert served.oracle.connections == 2


async def test_an_oracle_that_answers_nothing_is_left(served: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent_at_first(request: Seal) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        return None if len(served.oracle.seals) == 1 else honest(request)

    monkeypatch.setattr(asker_module, "STALL_SECONDS", 0.2)
    served.oracle.seal = silent_at_first
    async with asking(served) as asker:
        (answer,) = await came_of(asker)
    assert isinstance(answer, Sealed)
    assert served.oracle.connections == 2


async def test_an_answer_that_comes_too_late_is_none(served: Runner) -> None:
    async def all_but_the_first(request: Seal) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        return None if request.id == served.oracle.seals[0].id else honest(request)

    served.oracle.seal = all_but_the_first
    served.with_deadline(1)
    async with asking(served) as asker:
        answers = await came_of(asker, 2)
    assert [type(answer) for answer in answers] == [Sealed, DeadlineError]


async def test_what_goes_around_keeps_its_deadline(served: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker_module, "STALL_SECONDS", 2.5)
    served.oracle.seal = unanswered
    served.with_deadline(3)
    async with asking(served) as asker:
        began = trio.current_time()
        (answer,) = await came_of(asker)
        assert isinstance(answer, DeadlineError | UnreachableError)
        assert trio.current_time() - began < 2.5 + 2.0  # less than a stall and a deadline behind it
    assert served.oracle.connections == 2


async def test_who_waited_with_nothing_asked_notices_an_oracle_that_answers_nothing(
    served: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent_at_first(request: Seal) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        return None if len(served.oracle.seals) == 1 else honest(request)

    monkeypatch.setattr(asker_module, "STALL_SECONDS", 0.2)
    served.oracle.seal = silent_at_first
    waits = threading.Event()
    async with asking(served) as asker:
        monkeypatch.setattr(asker, "_waiting", Noticed(asker._waiting, waits))
        found: list[Answer] = []

        def listen() -> None:
            while not found:
                found.extend(asker.answers())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, listen)
            assert await in_thread(lambda: waits.wait(SECONDS))
            await in_thread(lambda: ask(asker))
    assert isinstance(found[0][1], Sealed)


class Noticed:
    """Waits like another one, and says so first."""

    def __init__(self, inner: select.poll, waits: threading.Event) -> None:
        self.unregister = inner.unregister
        self._inner = inner
        self._waits = waits

    def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
        self._waits.set()
        return self._inner.poll(milliseconds)


async def test_the_time_in_which_nobody_takes_answers_is_none_that_the_oracle_took(
    served: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads may wait for a slow disk or reader, and what the oracle has no room for yet goes only later."""
    clock = Clock()
    monkeypatch.setattr(asker_module, "time", clock)
    served.oracle.max_in_flight = 1
    served.with_deadline(30)
    async with asking(served) as asker:
        await in_thread(lambda: ask(asker, 3))
        clock.skipped += 3600
        answers = await in_thread(lambda: take(asker, 3))
    assert all(isinstance(answer, Sealed) for answer in answers.values())


class Clock:
    """The monotonic clock, which a test can put forward."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped


async def test_who_is_woken_gets_what_there_is(served: Runner) -> None:
    served.oracle.seal = unanswered
    async with asking(served) as asker:
        await in_thread(lambda: ask(asker))
        asker.wake()
        assert await in_thread(asker.answers) == []
        assert await in_thread(lambda: asker.answers(0.0)) == []  # its time was over long ago


async def test_who_wakes_an_asker_that_has_ended_writes_into_nobody_elses_file(served: Runner) -> None:
    """As the thread that still loads what answers are checked with, when a run was interrupted."""
    async with asking(served) as asker:
        pass
    pipes = [os.pipe() for _ in range(8)]  # one of them has the descriptor that the asker had
    try:
        asker.wake()
        assert select.select([reading for reading, _ in pipes], [], [], 0)[0] == []
    finally:
        for each in pipes:
            os.close(each[0])
            os.close(each[1])


async def test_pings_are_answered_and_other_keys_change_nothing(served: Runner) -> None:
    async with asking(served) as asker:
        served.oracle.tell(KeysChanged(()))
        served.oracle.tell(Ping("0" * 32))
        assert isinstance((await came_of(asker))[0], Sealed)
    assert Pong("0" * 32) in served.oracle.received
    assert served.oracle.connections == 1


async def test_ends_of_the_audit_log_are_kept(served: Runner) -> None:
    later = replace(HEAD, sequence=HEAD.sequence + 1)

    async def sealed_later(request: Seal) -> FromOracle | None:
        await trio.lowlevel.checkpoint()
        return Sealed(request.id, seal_of(request.state), later)

    served.oracle.seal = sealed_later
    for _ in range(2):
        async with asking(served) as asker:
            await came_of(asker)
    heads = Heads(served.config.state / "heads.json")
    heads.load()
    assert heads.all() == (later,)
    assert [message.heads for message in served.oracle.received if isinstance(message, Hello)] == [(), (later,)]


async def test_an_oracle_that_is_away_is_waited_for_until_the_deadline(served: Runner) -> None:
    served.with_deadline(1)
    with await in_thread(lambda: contextlib.closing(Asker(served.config, Heads(served.config.state), None))) as asker:
        with pytest.raises(UnreachableError, match="no oracle in reach"):
            await in_thread(lambda: asker.choose(KeyWanted()))
        (answer,) = await came_of(asker)
        assert isinstance(answer, UnreachableError)


async def test_an_oracle_that_is_back_is_found_by_what_is_asked_then(served: Runner) -> None:
    served.with_deadline(1)
    async with served.running_oracle():
        opened = open_asker(served.config)
        asker = await in_thread(opened.__enter__)
    assert [type(answer) for answer in await came_of(asker, 2)] == [UnreachableError] * 2
    async with served.running_oracle():
        assert [type(answer) for answer in await came_of(asker, 2)] == [Sealed] * 2
        await in_thread(lambda: opened.__exit__(None, None, None))


async def test_nobody_waits_for_a_client_that_crashed(served: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(self: Sealer, *_: object) -> Sealed:
        await trio.lowlevel.checkpoint()
        self._client._ways._tasks.start_soon(fail)  # type: ignore[union-attr]
        return await trio.sleep_forever()

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("a bug")

    monkeypatch.setattr(Sealer, "ask", crash)
    async with served.running_oracle():
        with await in_thread(
            lambda: contextlib.closing(Asker(served.config, Heads(served.config.state), None))
        ) as asker:
            answers = await came_of(asker, 2)
    assert all("a bug" in repr(answer) for answer in answers)


async def test_a_host_without_room_for_an_event_loop_is_told(served: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with contextlib.closing(Asker(served.config, Heads(served.config.state), None)) as asker:
        with monkeypatch.context() as patch:
            patch.setattr(trio, "run", full)
            with pytest.raises(UnreachableError, match="Too many open files"):
                await in_thread(lambda: asker.choose(KeyWanted()))


async def test_who_is_rejected_learns_why(served: Runner) -> None:
    served.oracle.rejection = Rejected(RejectionCode.TOKEN_EXPIRED)
    async with asking(served) as asker:
        with pytest.raises(RejectedError, match="token has expired"):
            await in_thread(lambda: asker.choose(KeyWanted()))


async def test_credentials_that_cannot_be_read_are_told_at_once(served: Runner) -> None:
    served.config.key.chmod(0o644)
    with pytest.raises(ConfigError, match=r"client\.key"):
        await in_thread(open_asker(served.config).__enter__)


async def test_new_credentials_are_stored_and_used_once_at_the_end(served: Runner, store: CredentialStore) -> None:
    token = "bo_" + "n" * 43
    async with asking(served) as asker:
        served.oracle.tell(lasting(served, token))
        await came_of(asker)
        assert token not in store.current.token.read_text()
    assert store.current.token.read_text().strip() == token
    assert [message.token for message in served.oracle.received if isinstance(message, Hello)][-1] == token


async def test_who_interrupts_us_does_not_wait_for_a_renewal(served: Runner, store: CredentialStore) -> None:
    before = store.current.token.read_text()
    async with served.running_oracle():
        opened = open_asker(served.config)
        asker = await in_thread(opened.__enter__)
        served.oracle.tell(lasting(served, "bo_" + "n" * 43))
        await came_of(asker)
        assert not await in_thread(lambda: opened.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None))
    assert store.current.token.read_text() == before


@pytest.mark.parametrize("garbage", [b"{}", b'{"type":"pong","id":"' + b"0" * 32 + b'"}'])
async def test_an_oracle_that_greets_otherwise_is_not_the_straight_way(served: Runner, garbage: bytes) -> None:
    served.oracle.garbage_instead_of_welcome = garbage
    async with served.running_oracle():
        with pytest.raises(UnusualError):
            await in_thread(lambda: open_straight(served.config, Heads(served.config.state)))


def test_over_ssh_leads_no_straight_way(runner: Runner) -> None:
    config = replace(runner.config, oracles=(OracleAddress("ssh://relay@oracle.example.org", ""),))
    with pytest.raises(UnusualError, match="ssh"):
        open_straight(config, Heads(runner.config.state))


async def test_an_oracle_that_does_not_greet_is_not_waited_for(served: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def say_nothing(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(straight_module, "PATIENCE_SECONDS", 0.3)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, say_nothing, listeners)
        address = OracleAddress(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}", "localhost")
        config = replace(served.config, oracles=(address,))
        with pytest.raises(UnusualError):
            await in_thread(lambda: open_straight(config, Heads(served.config.state)))
        nursery.cancel_scope.cancel()
