"""What runners remember of the log, and what one of them that makes it up can cause."""

import logging
from collections.abc import Callable

import pytest

from agentproxy.oracle.caller import Caller
from agentproxy.oracle.keptheads import WARNING_SECONDS, KeptHeads
from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.signer_answers import HeadCompared
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import CompareHead, Record


class Signer:
    """One whose log nobody's head fits."""

    def __init__(self) -> None:
        self.compared: list[Head] = []
        self.records: list[Record] = []
        self.fits = False

    def next_id(self) -> int:
        return 1

    def send(self, request: ToSigner, answer: Callable[[FromSigner | BackendError], None]) -> None:
        assert isinstance(request, CompareHead)
        self.compared.append(request.head)
        answer(HeadCompared(request.id, self.fits, "" if self.fits else "records were cut off"))

    def record(self, request: Record) -> None:
        self.records.append(request)


class World:
    """Kept heads of one node on a clock of our own."""

    def __init__(self) -> None:
        self.signer = Signer()
        self.now = 1000.0
        self.heads = KeptHeads("node", self.signer, lambda: self.now)

    def hello(self, runner: str, *sequences: int, node: str = "node") -> None:
        heads = [Head(node, sequence, bytes(32)) for sequence in sequences]
        self.heads.compare(Caller(runner, "0" * 12, "192.0.2.1:1"), heads)


def test_of_the_heads_in_one_hello_the_furthest_alone_is_compared() -> None:
    world = World()
    world.hello("a", *range(1, 65))
    world.hello("a", 7, node="another")
    world.hello("a")
    assert [head.sequence for head in world.signer.compared] == [64]


def test_a_runner_with_made_up_heads_causes_one_record_and_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    for _ in range(40):
        world.hello("a", *range(1, 65))
        world.now += WARNING_SECONDS / 41
    world.hello("b", 5)
    world.now += WARNING_SECONDS
    world.hello("a", 3)
    told = [(record.asserted.runner, record.details.get("suppressed")) for record in world.signer.records]
    assert told == [("a", None), ("b", None), ("a", "39")]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.rpartition("suppressed=")[2] for line in lines] == ["0", "0", "39"]


def test_a_head_that_fits_is_nothing_to_tell() -> None:
    world = World()
    world.signer.fits = True
    world.hello("a", 3)
    assert world.signer.records == []
