"""Real gpg through the relay; the secret keys are the oracle's."""

import pytest
import trio

from tests.relay.conftest import Runner


@pytest.mark.parametrize("key", ["rsa", "ed"])
async def test_gpg_signs_with_a_key_that_is_not_on_this_machine(runner: Runner, key: str) -> None:
    async with runner.both():
        signed = await runner.sign(key)

        assert signed.returncode == 0, signed.stderr.decode()
        assert await runner.verifies(signed.stdout)


async def test_a_signature_costs_one_round_trip_to_the_oracle(runner: Runner) -> None:
    async with runner.both():
        await runner.sign()
        before = len(runner.oracle.received)

        await runner.sign()

        assert len(runner.oracle.received) - before == 1


async def test_many_gpg_share_one_connection_to_the_oracle(runner: Runner) -> None:
    statuses: list[int] = []

    async def sign_one(number: int) -> None:
        data = b"package %d" % number
        signed = await runner.sign("rsa", data)
        statuses.append(signed.returncode)

    async with runner.both():
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(sign_one, number)

        assert statuses == [0] * 40
        assert runner.oracle.connections == 1
        assert len(runner.oracle.requests) == 40


async def test_gpg_that_looks_for_a_card_first_leaves_no_warning(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async with runner.both():
        signed = await runner.gpg("--detach-sign", "-o", "-", stdin=b"package")

    assert signed.returncode == 0, signed.stderr.decode()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []
