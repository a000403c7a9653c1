"""A relay without scruples: it holds a runner's real credentials and asks the oracle for whatever it likes."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, FromOracle, FromRelay
from agentproxy.protocol.oracle_messages import Welcome
from agentproxy.protocol.relay_messages import Sign
from agentproxy.runtime.streams import FramedStream
from relay.config import OracleAddress, load_config
from relay.dial import Dialer
from tests.end_to_end.place import SECONDS, System

__all__ = ["HostileRelay", "dialer_of", "hostile_relay"]


class HostileRelay:
    """One greeted connection to the oracle."""

    def __init__(self, stream: FramedStream, welcome: Welcome) -> None:
        self._stream = stream
        self.welcome = welcome

    async def sign(self, keygrip: str, digest: Digest) -> FromOracle:
        """What the oracle answers; the relay's own refusals are not in the way."""
        request = Sign(secrets.token_hex(16), Keygrip.parse(keygrip), digest, SECONDS * 1000)
        return await self.ask(request)

    async def ask(self, message: FromRelay) -> FromOracle:
        """What the oracle answers to any message."""
        self._stream.send_soon(FROM_RELAY.encode(message))
        with trio.fail_after(SECONDS):
            (payload,) = await self._stream.receive()
        return FROM_ORACLE.decode(payload)


def dialer_of(system: System) -> tuple[Dialer, OracleAddress]:
    """The runner's real credentials, and where its oracle is."""
    config = load_config(system.directory / "relay" / "relay.yaml")
    return Dialer(config), config.oracles[0]


@asynccontextmanager
async def hostile_relay(system: System) -> AsyncIterator[HostileRelay]:
    dialer, oracle = dialer_of(system)
    stream = FramedStream(await dialer.connect(oracle))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run_sender)
        stream.send_soon(FROM_RELAY.encode(dialer.hello()))
        with trio.fail_after(SECONDS):
            (payload,) = await stream.receive()
        welcome = FROM_ORACLE.decode(payload)
        assert isinstance(welcome, Welcome), welcome
        yield HostileRelay(stream, welcome)
        nursery.cancel_scope.cancel()
    await stream.aclose()
