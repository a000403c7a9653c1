import struct
from pathlib import Path

import pytest
import trio

from agentproxy.runtime.wakefulness import Wakefulness
from tests.oracle.world import until
from tests.relay.conftest import GPG_SECONDS, Runner
from tests.relay.test_claims import asked

AWAKE, ASLEEP = 0, 2_000_000_000


async def test_processors_stay_awake_from_a_question_for_our_key_to_the_signature(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, driver = tmp_path / "cpu_dma_latency", tmp_path / "current_driver"
    device.touch()
    driver.write_text("haltpoll\n")
    monkeypatch.setattr("relay.service.Wakefulness", lambda: Wakefulness(device, driver))

    def told() -> list[int]:
        return [number for (number,) in struct.iter_unpack("=i", device.read_bytes())]

    grip = runner.keys.facts["ed"].keygrip
    async with runner.both():
        with trio.fail_after(GPG_SECONDS):
            stream = await trio.open_unix_socket(str(runner.socket))
            async with stream:
                for command in ("RESET", "HAVEKEY " + "0" * 40, "GETINFO version"):
                    await asked(stream, command)
                assert told() == []
                await asked(stream, f"HAVEKEY {grip}")
                assert told()[:1] == [AWAKE]
                for command in (f"SIGKEY {grip}", f"SETHASH 10 {'5A' * 64}"):
                    await asked(stream, command)
                await until(lambda: told()[-1] == ASLEEP)  # who asks no more lets them sleep
                before = len(told())
                await asked(stream, "PKSIGN")
                assert told()[before] == AWAKE
                await until(lambda: told()[-1] == ASLEEP)
    assert told() == [AWAKE, ASLEEP] * (len(told()) // 2)
