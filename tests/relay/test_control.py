"""The control socket, asked as the command line asks."""

from functools import partial
from pathlib import Path

import pytest
import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import MAX_CLAIM
from relay.control import Answer, ControlTable, serve_control
from relay.control_call import ask
from relay.status import ControlError, ControlRequest


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
