"""Places on the relays' port: neither a stranger nor a runner takes them all."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import trio

from agentproxy.oracle.changes import CertificateRevoked
from agentproxy.oracle.daemon import Oracle
from agentproxy.oracle.shares import network_of
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.oracle_messages import Welcome
from agentproxy.runtime.shares import Shares
from agentproxy.runtime.streams import EndOfStream
from tests.oracle.conftest import Running
from tests.oracle.signerserver import FakeSigner
from tests.oracle.world import SECONDS, World, connected, context, put

SHARE = 8


@pytest.fixture
async def few(world: World, signer: FakeSigner, nursery: trio.Nursery) -> AsyncIterator[Running]:
    """An oracle with 24 places."""
    a, b = world.enrol("a"), world.enrol("b")
    oracle = Oracle(replace(world.config, max_connections=3 * SHARE))
    nursery.start_soon(oracle.run)
    with trio.fail_after(SECONDS):
        await oracle.listening.wait()
    yield Running(world, signer, oracle, oracle.address, a, b)
    oracle.stop()


async def is_closed(stream: trio.SocketStream) -> bool:
    """Whether the oracle closes it before a handshake's time is over."""
    with trio.move_on_after(SECONDS / 4):
        try:
            return not await stream.receive_some()
        except trio.BrokenResourceError:
            return True
    return False


async def test_silent_strangers_of_one_address_do_not_keep_others_out(
    few: Running, caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = few.address.rpartition(":")
    async with AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(await trio.open_tcp_stream(host, int(port))) for _ in range(4 * SHARE)]
        for stream in crowd[SHARE:]:
            assert await is_closed(stream)
        made = context(few.a.certificate)
        elsewhere = await stack.enter_async_context(connected(few.address, made, source="127.0.0.2"))
        assert isinstance(await elsewhere.hello(few.a.token), Welcome)
    assert "reason=8 strangers from there already" in caplog.text


async def test_a_runner_gets_its_share_and_others_at_its_address_get_theirs(
    few: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        for who in [few.a] * SHARE + [few.b] * SHARE:
            client = await stack.enter_async_context(few.connect(who))
            assert isinstance(await client.hello(who.token), Welcome)
        one_more = await stack.enter_async_context(few.connect(few.a))
        with pytest.raises((EndOfStream, RemoteProtocolError)):
            await one_more.hello(few.a.token)
    assert "connection closed, runner=a" in caplog.text
    assert "reason=it has 8 already" in caplog.text


async def test_whoever_has_a_revoked_certificate_takes_none_of_its_runners_places(few: Running) -> None:
    fresh = few.world.enrol("a")
    put(few.world.registry, CertificateRevoked(few.a.public_key_sha256))
    await few.registry_is_seen()
    async with AsyncExitStack() as stack:
        for _ in range(SHARE):
            thief = await stack.enter_async_context(few.connect(few.a))
            assert isinstance(thief.stream._stream, trio.SSLStream)
            await thief.stream._stream.do_handshake()
        client = await stack.enter_async_context(connected(few.address, context(fresh.certificate), "127.0.0.2"))
        assert isinstance(await client.hello(fresh.token), Welcome)


@pytest.mark.parametrize(("places", "share"), [(1, 8), (32, 8), (1000, 250)])
def test_a_share_is_a_quarter_or_a_few(places: int, share: int) -> None:
    assert Shares(places).most == share


def test_a_place_is_free_again_when_its_connection_ends() -> None:
    shares = Shares(1)
    for _ in range(2 * SHARE):
        with shares.place("a") as has_place:
            assert has_place
    assert not shares._taken


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7:443", "192.0.2.7"),
        ("[2001:db8::1]:443", "2001:db8::/64"),
        ("[2001:db8:0:0:ffff::2]:1", "2001:db8::/64"),
        ("[2001:db8:0:1::1]:443", "2001:db8:0:1::/64"),
        ("[::ffff:192.0.2.7]:443", "192.0.2.7"),
        ("[fe80::1%eth0]:443", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_who_has_one_address_of_a_network_has_them_all(address: str, network: str) -> None:
    assert network_of(address) == network
