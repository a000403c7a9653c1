"""What keeps one oracle from being reached is that oracle's trouble alone."""

import pytest
import trio

from agentproxy.protocol.errors import ConfigError
from relay.config import OracleAddress
from relay.dial import Dialer
from relay.errors import LinkLostError
from tests.relay.conftest import Runner


@pytest.mark.parametrize(
    ("address", "server_name"), [("127.0.0.1", ""), ("127.0.0.1", "a..b"), ("oracle2..example.org", "localhost")]
)
async def test_a_name_that_a_library_does_not_take_is_a_lost_link(
    runner: Runner, address: str, server_name: str
) -> None:
    async with runner.running_oracle():
        oracle = OracleAddress("localhost:7443", "localhost")
        # Past our own check, which a library's may be stricter than one day.
        object.__setattr__(oracle, "address", f"{address}:{runner.oracle.port}")
        object.__setattr__(oracle, "server_name", server_name)
        with pytest.raises(LinkLostError, match="empty"):
            await Dialer(runner.config).connect(oracle)


async def test_only_the_first_connection_takes_what_was_prepared(runner: Runner) -> None:
    async with runner.running_oracle():
        dialer = Dialer(runner.config)
        dialer.prepare()
        runner.config.key.write_text("no key")
        await trio.aclose_forcefully(await dialer.connect(runner.config.oracles[0]))
        with pytest.raises(ConfigError, match="expected a certificate and its key"):
            await dialer.connect(runner.config.oracles[0])
