from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.oracle.signerlink import SignerError, SignerLink, connect
from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.fields import Asserted, Claims
from agentproxy.protocol.signer_answers import DigestSigned, Keys, Recorded
from agentproxy.protocol.signer_requests import ListKeys, Outcome, Record, SignDigest, Status
from agentproxy.signer import verify
from tests.oracle.samples import digest
from tests.oracle.signer_contract import *  # noqa: F403  the contract's tests
from tests.oracle.signer_contract import ASSERTED, SECONDS, Check
from tests.oracle.signerserver import ED25519, FakeSigner
from tests.oracle.world import until


@pytest.fixture
def signer_socket(signer: FakeSigner) -> Path:
    return signer.path


@pytest.fixture
def is_good() -> Check:
    return verify.check


def request(link: SignerLink, number: int = 1) -> SignDigest:
    return SignDigest(link.next_id(), f"{number:032x}", ED25519.keygrip, digest(str(number)), ASSERTED)


async def following(signer: FakeSigner, nursery: trio.Nursery) -> tuple[SignerLink, list[Keys]]:
    """A link that is connected, and the key lists that it hears, of which there is one."""
    heard: list[Keys] = []
    link = SignerLink(signer.path, heard.append)
    nursery.start_soon(link.run)
    await until(lambda: heard)
    return link, heard


async def test_what_is_in_flight_fails_when_the_signer_dies_and_later_it_goes_on(
    signer: FakeSigner, nursery: trio.Nursery
) -> None:
    link, heard = await following(signer, nursery)
    signer.held = trio.Event()
    failures: list[SignerError] = []

    async def ask() -> None:
        with pytest.raises(SignerError) as failed:
            await link.request(request(link))
        failures.append(failed.value)

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as asking:
            for _ in range(3):
                asking.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            signer.die()
    assert [(failure.code, failure.retryable) for failure in failures] == [(FailureCode.NOT_OPERATIONAL, True)] * 3
    with pytest.raises(SignerError, match="no connection"):
        await link.request(request(link))
    signer.held.set()
    await nursery.start(signer.serve)
    await until(lambda: link.is_connected)
    with trio.fail_after(SECONDS):
        await link.request(request(link))
    await until(lambda: len(heard) == 2)


async def test_new_keys_are_heard_of_without_a_restart(signer: FakeSigner, nursery: trio.Nursery) -> None:
    _link, heard = await following(signer, nursery)
    signer.keys = ()
    await until(lambda: len(heard) == 2)
    assert heard[1].keys == ()


async def test_the_log_s_end_is_the_furthest_that_this_connection_told(
    signer: FakeSigner, nursery: trio.Nursery
) -> None:
    link, heard = await following(signer, nursery)
    answer = await link.request(request(link))
    assert isinstance(answer, DigestSigned)
    signer.keys = ()  # and no word of the log's end with them
    await until(lambda: len(heard) == 2)
    assert [keys.head for keys in heard] == [None, answer.head]
    signer.keys = (ED25519,)
    signer.die()
    await nursery.start(signer.serve)
    await until(lambda: len(heard) == 3)
    assert heard[2].head is None  # nothing of the log before


async def test_a_record_that_the_disk_may_not_have_is_no_end_of_the_log(
    signer: FakeSigner, nursery: trio.Nursery
) -> None:
    link, heard = await following(signer, nursery)
    answer = await link.request(Record(link.next_id(), "a", Outcome.DONE, "", ASSERTED))
    assert isinstance(answer, Recorded)
    await link.request(Record(link.next_id(), "a", Outcome.REFUSED, "", ASSERTED, durable=False))
    signer.keys = ()
    await until(lambda: len(heard) == 2)
    assert heard[1].head == answer.head


async def test_what_is_too_long_for_the_signer_fails_alone(signer: FakeSigner) -> None:
    details = {"d1": "😀" * 1024, "d2": "😀" * 1024}
    claims = Claims(commands=("😀" * 1024, "😀" * 1024))
    asserted = Asserted(runner="😀" * 256, address="😀" * 256, claims=claims)
    with trio.fail_after(SECONDS):
        async with connect(signer.path) as link:
            record = Record(link.next_id(), "sign", Outcome.REFUSED, "😀" * 1024, asserted, details=details)
            with pytest.raises(SignerError, match="not sent to the signer") as failed:
                await link.request(record)
            assert (failed.value.code, failed.value.retryable) == (FailureCode.INTERNAL, False)
            assert record.id not in link._waiting
            assert isinstance(await link.request(request(link)), DigestSigned)


async def test_an_error_inside_connect_comes_out_as_it_is(signer: FakeSigner) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with connect(signer.path):
            raise LookupError("mine")


async def test_nobody_listening_is_said_at_once(short: Path) -> None:
    with pytest.raises(SignerError, match="cannot reach the signer"):
        async with connect(short / "nobody.sock") as link:
            await link.request(ListKeys(link.next_id()))


async def test_a_silent_signer_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = SignerLink(Path("memory"))
    failures: list[SignerError] = []

    async def ask() -> None:
        await trio.sleep(1)
        with pytest.raises(SignerError) as failed:
            await link.request(Status(link.next_id()))
        failures.append(failed.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        assert "did not answer" in await link.serve(ours)
    assert failures[0].retryable
    await theirs.aclose()
