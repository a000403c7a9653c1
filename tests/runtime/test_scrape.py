"""The door for Prometheus: who says nothing keeps nobody else out."""

import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from agentproxy.runtime.metricsconfig import MetricsConfig
from agentproxy.runtime.scrape import MAX_CONNECTIONS, SECONDS, open_metrics, serve_metrics


@pytest.fixture(name="directory")
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as name:
        yield Path(name)


async def render() -> bytes:
    await trio.lowlevel.checkpoint()
    return b"blind_oracle_up 1\n"


@pytest.mark.parametrize("silent", [8, MAX_CONNECTIONS + 1, 10 * MAX_CONNECTIONS])
async def test_connections_that_ask_nothing_keep_no_scraper_waiting_for_its_whole_limit(
    directory: Path, nursery: trio.Nursery, silent: int
) -> None:
    path = directory / "metrics.sock"
    nursery.start_soon(serve_metrics, await open_metrics(MetricsConfig(socket=path)), render)
    async with AsyncExitStack() as stack:
        for number in range(silent):
            stream = await stack.enter_async_context(await trio.open_unix_socket(path))
            if number % 2:  # the others do not even begin
                await stream.send_all(b"GET /met")
        with trio.fail_after(SECONDS - 2):
            asking = await stack.enter_async_context(await trio.open_unix_socket(path))
            await asking.send_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
            got = b"".join([bytes(part) async for part in asking])
    assert got.endswith(b"\r\n\r\n" + await render())
