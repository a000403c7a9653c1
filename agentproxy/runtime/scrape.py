"""Metrics for whoever scrapes them: HTTP on loopback or a Unix socket, one answer a connection, nothing else.

h11 speaks HTTP. What is told is made by the caller, at each question anew.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

import h11
import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.metricsconfig import MetricsConfig
from agentproxy.runtime.serve import accept_forever
from agentproxy.runtime.systemd import port_hint
from agentproxy.runtime.unixsocket import bind

__all__ = ["METRICS_PATH", "open_metrics", "serve_metrics"]

logger = logging.getLogger(__name__)

METRICS_PATH = b"/metrics"
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = 10.0  # for a whole conversation: Prometheus' own limit
# A scraper asks as soon as it is connected. Who says nothing, or byte by byte, shall keep none away from its numbers:
# whoever is on the host can connect, and a scrape that fails is told as a daemon that is gone.
HEAD_SECONDS = 2.0
MAX_CONNECTIONS = 16
# Of those that have not asked yet. One more sends away who has been silent longest, so that a crowd of connections that
# never ask, which is quickly made, is through at once and does not stand before the scraper for seconds each.
MAX_SILENT = 8
MAX_ANSWERS = 4  # that are made at the same time
MAX_HEAD = 8192  # bytes
_SOCKET_MODE = 0o660

Render = Callable[[], Awaitable[bytes]]


async def open_metrics(config: MetricsConfig) -> Sequence[trio.SocketListener]:
    """Bind.

    Raises:
        ConfigError: the address or path cannot be used.
    """
    if config.socket is not None:
        return [bind(config.socket, _SOCKET_MODE)]
    host, port = config.address
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        hint = port_hint(error, "blind-oracle-metrics.socket")  # the relay's unit has a network
        raise ConfigError(f"metrics.listen: cannot use {config.listen}: {error}", hint) from error


async def serve_metrics(listeners: Sequence[trio.SocketListener], render: Render) -> None:
    """Answer until cancelled, then close the listeners."""

    answers = trio.CapacityLimiter(MAX_ANSWERS)
    silent: list[trio.CancelScope] = []  # the one that came first stands first

    async def handle(stream: trio.SocketStream) -> None:
        with trio.move_on_after(SECONDS):
            try:
                await _answer(stream, render, answers, silent)
            except (h11.ProtocolError, trio.BrokenResourceError) as error:
                logger.debug("metrics: a connection ended, reason=%s", error)

    try:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(accept_forever, listener, handle, MAX_CONNECTIONS)
    finally:
        for listener in listeners:
            listener.socket.close()


async def _answer(
    stream: trio.SocketStream, render: Render, answers: trio.CapacityLimiter, silent: list[trio.CancelScope]
) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    event = await _first_event(stream, connection, silent)
    if not isinstance(event, h11.Request):
        return
    status, body = 404, b"only GET /metrics\n"
    if event.method == b"GET" and event.target == METRICS_PATH:
        async with answers:
            status, body = 200, await render()
    headers = [("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body))), ("Connection", "close")]
    for part in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
        await stream.send_all(connection.send(part) or b"")


async def _first_event(stream: trio.SocketStream, connection: h11.Connection, silent: list[trio.CancelScope]) -> object:
    event: object = h11.NEED_DATA
    with trio.move_on_after(HEAD_SECONDS) as patience:
        if len(silent) == MAX_SILENT:
            silent.pop(0).cancel()
        silent.append(patience)
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some()))
        finally:
            if patience in silent:  # nobody has sent it away
                silent.remove(patience)
    return event
