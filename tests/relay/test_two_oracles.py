"""One relay, real gpg, and two oracles behind real TLS: renewal, enrolment and a crowd."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.messages import FromOracle
from agentproxy.protocol.oracle_messages import Rejected, Welcome
from agentproxy.protocol.relay_messages import Hello, Sign
from relay.config import OracleAddress
from relay.credentials import CredentialStore
from relay.exchange import confirm
from tests.oracle.world import until
from tests.relay.conftest import Runner, lasting, oracle_context
from tests.relay.fakeoracle import FakeOracle
from tests.relay.test_renewal import FRESH


class NodeB(FakeOracle):
    """The fake under another name."""

    def _welcome(self) -> Welcome:
        return replace(super()._welcome(), node="node-b", head=None)


@asynccontextmanager
async def second(runner: Runner) -> AsyncIterator[FakeOracle]:
    """Another oracle, which comes second in the relay's configuration; the first one must run."""
    other = NodeB(
        oracle_context(runner.directory, runner.authority), runner.keys.backend, tuple(runner.keys.facts.values())
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(other.serve)
        address = OracleAddress(f"127.0.0.1:{other.port}", "localhost")
        runner.config = replace(runner.config, oracles=(*runner.config.oracles, address))
        yield other
        nursery.cancel_scope.cancel()


def tokens(oracle: FakeOracle) -> list[str]:
    return [message.token for message in oracle.received if isinstance(message, Hello)]


async def test_renewed_credentials_are_used_with_every_oracle_at_once(runner: Runner, store: CredentialStore) -> None:
    async with runner.running_oracle(), second(runner) as other, runner.relay():
        await until(lambda: runner.oracle.answered_hellos == other.answered_hellos == 1)
        runner.oracle.tell(lasting(runner, FRESH))
        await until(lambda: tokens(runner.oracle)[-1] == FRESH and tokens(other)[-1] == FRESH)
        await until(lambda: len(runner.oracle.open) == len(other.open) == 1)
        assert (await runner.sign()).returncode == 0
    assert store.current.token.read_text().strip() == FRESH


async def test_credentials_from_two_oracles_at_one_moment_leave_one_whole_set(
    runner: Runner, store: CredentialStore
) -> None:
    another = FRESH.replace("f", "g")
    async with runner.running_oracle(), second(runner) as other, runner.relay():
        await until(lambda: runner.oracle.answered_hellos == other.answered_hellos == 1)
        runner.oracle.tell(lasting(runner, FRESH))
        other.tell(lasting(runner, another))
        await until(lambda: {tokens(runner.oracle)[-1], tokens(other)[-1]} in ({FRESH}, {another}))
        await until(lambda: len(runner.oracle.open) == len(other.open) == 1)
        assert (await runner.sign()).returncode == 0
    assert store.current.token.read_text().strip() == tokens(other)[-1]


async def test_renewed_credentials_from_the_warm_oracle_count_as_well(runner: Runner, store: CredentialStore) -> None:
    async with runner.running_oracle(), second(runner) as other, runner.relay():
        await until(lambda: runner.oracle.answered_hellos == other.answered_hellos == 1)
        other.tell(lasting(runner, FRESH))
        await until(lambda: tokens(runner.oracle)[-1] == FRESH and tokens(other)[-1] == FRESH)
        assert (await runner.sign()).returncode == 0


@pytest.mark.parametrize("code", [RejectionCode.NOT_OPERATIONAL, RejectionCode.TOKEN_UNKNOWN])
async def test_what_one_oracle_cannot_judge_the_next_is_asked(
    runner: Runner, store: CredentialStore, code: RejectionCode
) -> None:
    runner.oracle.rejection = Rejected(code)
    async with runner.running_oracle(), second(runner) as other:
        addresses = runner.config.oracles
        is_taken = await trio.to_thread.run_sync(confirm, store.current, addresses)
        assert is_taken == (code is RejectionCode.NOT_OPERATIONAL)
        assert len(tokens(other)) == int(is_taken)


async def test_two_hundred_gpg_at_one_instant_lose_their_oracle_and_notice_nothing(runner: Runner) -> None:
    began = trio.Event()

    async def nothing(_: Sign) -> FromOracle | bytes | None:
        began.set()
        await trio.sleep_forever()

    runner.oracle.answer = nothing
    statuses: list[int] = []

    async def sign() -> None:
        statuses.append((await runner.sign("ed")).returncode)

    async with runner.running_oracle(), second(runner) as other, runner.relay(), trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(sign)
        await began.wait()
        runner.oracle.answer = runner.oracle.sign
        for framed in tuple(runner.oracle.open):
            await trio.aclose_forcefully(framed._stream)

    assert statuses == [0] * 200
    assert {request.id for request in runner.oracle.requests} & {request.id for request in other.requests}


def test_an_oracle_that_is_listed_twice_is_refused(runner: Runner) -> None:
    with pytest.raises(ConfigError, match="oracles: expected at most 16, each address once"):
        replace(runner.config, oracles=runner.config.oracles * 2)
