"""Connections and requests that come to nothing cause some lines of the log and a count, however many there are."""

import logging
from contextlib import AsyncExitStack

import pytest
import trio

from agentproxy.oracle.complaints import PERIOD_SECONDS, Complaints
from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.oracle_messages import Refused, Rejected
from agentproxy.protocol.relay_messages import FetchCertificate
from tests.oracle.conftest import Running
from tests.oracle.test_stream import TOKEN
from tests.oracle.world import until


def test_a_peer_gets_some_lines_in_each_period_and_one_that_counts_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    complaints = Complaints(lambda: now[0])
    complaints.sweep()
    assert [complaints.may_tell("192.0.2.1") for _ in range(12)] == [True] * 5 + [False] * 7
    assert complaints.may_tell("192.0.2.2")
    now[0] = PERIOD_SECONDS - 1
    complaints.sweep()
    assert not complaints.may_tell("192.0.2.1")
    assert caplog.messages == []
    now[0] = PERIOD_SECONDS
    complaints.sweep()
    assert caplog.messages == ["more such events, not told one by one, from=192.0.2.1 number=8"]
    assert complaints.may_tell("192.0.2.1")


def test_many_addresses_get_no_more_lines_than_some_do(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    complaints = Complaints(lambda: now[0])
    complaints.sweep()
    assert sum(complaints.may_tell(f"2001:db8:{number:x}::/64") for number in range(10_000)) == 55
    now[0] = PERIOD_SECONDS
    complaints.sweep()
    assert caplog.messages == ["more such events, not told one by one, from=elsewhere number=9945"]


async def test_strangers_who_come_again_and_again_do_not_fill_the_log(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agentproxy")
    host, _, port = running.address.rpartition(":")
    for _ in range(8):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            while await stream.receive_some():
                pass
    assert caplog.text.count("no TLS, address=127.0.0.1:") == 5


async def test_whoever_tries_tokens_is_answered_each_time_and_logged_some_times(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(8):
            client = await stack.enter_async_context(running.connect(running.a))
            assert await client.hello(TOKEN) == Rejected(RejectionCode.TOKEN_UNKNOWN)
    assert caplog.text.count("rejected, runner=nobody address=127.0.0.1:") == 5
    tally = running.oracle._service.tally
    await until(lambda: tally.rejected[RejectionCode.TOKEN_UNKNOWN] == 8)


async def test_who_fetches_what_it_may_not_have_is_answered_each_time_and_logged_some_times(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        for number in range(8):
            assert isinstance(await client.ask(FetchCertificate(f"{number:032x}", Fingerprint(bytes(20)))), Refused)
    assert caplog.text.count("certificate not sent, runner=a ") == 5
