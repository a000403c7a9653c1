from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from agentproxy.oracle import policyfile
from agentproxy.oracle.policyfile import SETTLE_SECONDS, Remarks, load_policy
from agentproxy.oracle.signing import SigningService
from tests.oracle.fakesigner import FakeSource
from tests.oracle.samples import MODERN, SERVED, SMALL, policy

UNSERVED = "policy: keys.small.fingerprint: the signer serves no such key"
BROKEN = (
    "policy: keys.modern.hash_algorithms[0]: sha1 is broken: whoever uses this key can prepare two files of one digest"
)


@pytest.fixture(name="service")
def service_before_a_key_is_imported() -> SigningService:
    made = SigningService(policy(), FakeSource(), trio.current_time)
    made.serve_keys(key for key in SERVED if key is not SMALL)
    return made


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == policyfile.__name__]


async def test_a_key_that_comes_with_its_policy_is_never_called_unserved(
    service: SigningService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    remarks = Remarks(service)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(remarks.make_later)
        await trio.sleep(SETTLE_SECONDS / 2)
        service.serve_keys(SERVED)
        remarks.make()
    assert UNSERVED not in lines(caplog)


async def test_a_key_that_does_not_come_is_told_once(
    service: SigningService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    remarks = Remarks(service)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(remarks.make_later)
            await trio.sleep(SETTLE_SECONDS / 10)
        assert lines(caplog) == []
    assert lines(caplog).count(UNSERVED) == 1


async def test_of_a_policy_that_was_not_taken_nothing_is_said_again(
    service: SigningService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    remarks = Remarks(service)
    remarks.make()
    caplog.clear()
    await remarks.make_later()
    assert lines(caplog) == []


def test_a_risk_is_no_reason_to_refuse_a_policy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "policy.yaml"
    key = f"{{fingerprint: {MODERN.fingerprint}, type: modern, hash_algorithms: [sha1]}}"
    file.write_text(f"keys: {{modern: {key}}}\nrunners: {{}}\n")
    service = SigningService(load_policy(file), FakeSource(), float)
    service.serve_keys([MODERN])
    assert lines(caplog) == []  # who loads it says what becomes of it
    Remarks(service).make()
    assert lines(caplog) == [BROKEN]
