"""The control socket, asked as the command line asks."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import MAX_CLAIM
from agentproxy.runtime.peer import Peer
from agentproxy.runtime.unixsocket import peer_of
from relay import daemon as daemon_module
from relay.control import ASK_SECONDS, Answer, ControlTable, serve_control
from relay.control_call import ask
from relay.status import ControlError, ControlRequest, StatusReport
from tests.relay.conftest import Runner


async def asked(directory: Path, reason: str) -> str:
    """What a relay understands as the reason, told as an error."""

    async def told(request: ControlRequest) -> Answer:
        await trio.lowlevel.checkpoint()
        return ControlError(request.reason)

    path = directory / "control.sock"
    table: ControlTable = {"fallback": told}
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(path))
    listening.listen()
    async with trio.open_nursery() as nursery:
        listener = trio.SocketListener(listening)
        nursery.start_soon(partial(trio.serve_listeners, lambda stream: serve_control(stream, table), [listener]))
        request = ControlRequest("fallback", reason=reason)
        with pytest.raises(ConfigError) as caught:
            await trio.to_thread.run_sync(ask, path, request, ControlError)
        nursery.cancel_scope.cancel()
    return str(caught.value)


@pytest.mark.parametrize("character", ["a", "\u6f22", "\U0001f511"])
async def test_a_reason_of_any_script_may_have_the_length_that_is_promised(tmp_path: Path, character: str) -> None:
    reason = character * MAX_CLAIM
    assert await asked(tmp_path, reason) == f"the relay answers: {reason}"


async def test_a_question_that_no_relay_reads_is_not_taken_for_a_missing_relay(tmp_path: Path) -> None:
    assert "expected at most 16384" in await asked(tmp_path, "a" * 100_000)


@asynccontextmanager
async def crowd(path: Path, count: int) -> AsyncIterator[list[trio.SocketStream]]:
    """Who connects and says nothing."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await trio.open_unix_socket(path)) for _ in range(count)]


async def status(path: Path) -> StatusReport:
    return await trio.to_thread.run_sync(ask, path, ControlRequest("status"), StatusReport, abandon_on_cancel=True)


async def test_a_silent_crowd_of_one_user_keeps_no_other_from_asking(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runner.config.control_socket
    people = iter([Peer(1, 1000, 1000, ())] * 200)
    monkeypatch.setattr(daemon_module, "peer_of", lambda stream: next(people, None) or peer_of(stream))
    async with runner.relay(), crowd(path, 200):
        with trio.fail_after(ASK_SECONDS / 2):
            assert (await status(path)).runner == "b1"


async def test_a_user_who_asks_too_much_at_once_is_told_so(runner: Runner) -> None:
    path = runner.config.control_socket
    async with runner.relay():
        async with crowd(path, 32):
            with pytest.raises(ConfigError, match="too many questions of one user at once"):
                await status(path)
        with trio.fail_after(ASK_SECONDS):
            while True:
                with suppress(ConfigError):  # it has not heard yet that all have gone
                    assert (await status(path)).runner == "b1"
                    break
