"""The signer as a child, where the host cannot start one."""

import errno
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.oracle.signerprocess import LAST_RETRY_SECONDS, SignerProcess


async def test_a_host_without_a_process_to_spare_is_asked_again_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    asked: list[float] = []

    async def exhausted(*_: object, **__: object) -> trio.Process:
        await trio.lowlevel.checkpoint()
        asked.append(trio.current_time())
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(trio.lowlevel, "open_process", exhausted)
    with trio.move_on_after(10 * LAST_RETRY_SECONDS):
        await SignerProcess(Path("signer.yaml"), lambda: None).run()
    assert asked[1] - asked[0] < 1
    assert asked[-1] - asked[-2] == pytest.approx(LAST_RETRY_SECONDS)
    assert caplog.text.count("signer not started, reason=Resource temporarily unavailable") == len(asked)
