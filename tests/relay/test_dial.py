"""What keeps one oracle from being reached is that oracle's trouble alone."""

import pytest

from relay.config import OracleAddress
from relay.dial import Dialer
from relay.link import LinkLostError
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
