import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from agentproxy.oracle.daemon import Oracle
from tests.oracle.signerserver import FakeSigner
from tests.oracle.world import SECONDS, Client, Enrolled, World, connected, context, until


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a path so short that sockets fit below it."""
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
async def signer(short: Path, nursery: trio.Nursery) -> AsyncIterator[FakeSigner]:
    made = FakeSigner(short / "signer.sock")
    await nursery.start(made.serve)
    yield made
    made.die()


@pytest.fixture
def world(short: Path) -> Iterator[World]:
    made = World(short)
    yield made
    made.registry.close()


@dataclass(frozen=True, slots=True)
class Running:
    """An oracle that serves, and all that belongs to it."""

    world: World
    signer: FakeSigner
    oracle: Oracle
    address: str
    a: Enrolled
    b: Enrolled

    def connect(self, who: Enrolled) -> AbstractAsyncContextManager[Client]:
        return connected(self.address, context(who.certificate))

    async def registry_is_seen(self) -> None:
        """Wait until the oracle has polled the latest change of credentials."""
        generation = self.world.registry.generation()
        await until(lambda: self.oracle._view.credentials.generation == generation)


@pytest.fixture
async def running(world: World, signer: FakeSigner, nursery: trio.Nursery) -> Running:
    a, b = world.enrol("a"), world.enrol("b")
    oracle = Oracle(world.config)
    nursery.start_soon(oracle.run)
    with trio.fail_after(SECONDS):
        await oracle.listening.wait()
    return Running(world, signer, oracle, oracle.address, a, b)
