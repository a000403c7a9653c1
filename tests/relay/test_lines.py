"""One connection in the place of another."""

import pytest
import trio
import trio.testing

from agentproxy.protocol.relay_messages import Hello
from relay import lines as lines_module
from relay.config import OracleAddress
from relay.errors import LinkLostError
from relay.lines import Lines
from relay.link import LinkOwner


class FakeLink:
    """Lives until it is told to end."""

    made: "list[FakeLink]"

    def __init__(self, _stream: trio.abc.Stream, _hello: Hello, _owner: LinkOwner) -> None:
        self._over = trio.Event()
        self.reason = ""
        FakeLink.made.append(self)

    async def run(self) -> None:
        await self._over.wait()
        raise LinkLostError(self.reason)

    def end(self, reason: str) -> None:
        self.reason = reason
        self._over.set()


class FakeDial:
    def hello(self) -> None:
        pass

    async def connect(self, _oracle: OracleAddress) -> None:
        await trio.lowlevel.checkpoint()


async def test_who_replaced_another_is_missed_at_once_whatever_the_other_still_waits_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(lines_module, "Link", FakeLink)
    FakeLink.made = []
    lines = Lines(OracleAddress("a.example:7443", "a.example"), FakeDial(), None)  # type: ignore[arg-type]
    reasons: list[str] = []

    async def use() -> None:
        with pytest.raises(LinkLostError) as ended:
            await lines.use()
        reasons.append(str(ended.value))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lines.succeed)
            await trio.testing.wait_all_tasks_blocked()
            old, new = FakeLink.made
            lines.welcomed(new)  # type: ignore[arg-type]
            await trio.testing.wait_all_tasks_blocked()
            assert not old.reason  # something is in flight over it
            new.end("the new one died")
    assert reasons == ["the new one died"]
