"""Batches as a program uses them: one run after another, and what a run leaves to the next one."""

from pathlib import Path

import pytest
import trio

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import LocalProtocolError
from agentproxy.protocol.seal_messages import Sealed
from relay.errors import UnreachableError
from relay.sealed.batch import Batch
from relay.sealed.fate import Outcome, Result, Way
from tests.relay.test_sealer import KEY, sealer_with

SECONDS = 30
WAY = Way(KEY, HashAlgorithm.SHA256)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    (tmp_path / "document").write_bytes(b"content")
    return tmp_path / "document"


async def test_a_batch_takes_one_run_at_a_time_and_another_one_behind_it(document: Path) -> None:
    signed: list[Outcome] = []

    async def tell(result: Result) -> None:
        with pytest.raises(LocalProtocolError, match="a Batch of its own"):
            await batch.sign_detached([])
        signed.append(result.outcome)

    async with sealer_with() as sealer:
        with trio.fail_after(SECONDS):
            await sealer.welcome()
            batch = Batch(sealer, WAY, tell)
            for _ in range(2):
                await batch.sign_detached([document])
    assert signed == [Outcome.SIGNED] * 2


async def test_an_oracle_that_was_away_is_asked_again_in_the_next_run(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Outcome] = []

    async def tell(result: Result) -> None:
        await trio.lowlevel.checkpoint()
        told.append(result.outcome)

    async def away(*_: object) -> Sealed:
        await trio.lowlevel.checkpoint()
        raise UnreachableError("no oracle in reach")

    async with sealer_with() as sealer:
        with trio.fail_after(SECONDS):
            await sealer.welcome()
            batch = Batch(sealer, WAY, tell)
            with monkeypatch.context() as patched:
                patched.setattr(sealer, "seal", away)
                await batch.sign_detached([document])
            await batch.sign_detached([document])
    assert told == [Outcome.FAILED, Outcome.SIGNED]
