"""`blind-oracle-relay serve`: sockets, the connection to the oracle, and the end of both."""

import functools
import gc
import logging
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime import logs, systemd
from agentproxy.runtime.serve import accept_forever, room_for, serve_until_stopped
from agentproxy.runtime.unixsocket import bind, check_inherited
from relay.config import CONTROL_NAME, RelayConfig, load_config
from relay.dial import Dialer
from relay.door import Door
from relay.service import Relay

__all__ = ["run", "serve"]

logger = logging.getLogger(__name__)

# How long requests that are under way may take when the relay is told to stop.
DRAIN_SECONDS = 5.0
# What the oracle answered last must still reach gpg.
LAST_REPLIES_SECONDS = 0.1
MAX_CONTROL_CONNECTIONS = 16


def run(config_path: Path) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: something that an operator must put right before the relay can start.
    """
    config = load_config(config_path)
    logs.configure(config.log_level.upper())
    dialer = Dialer(config)
    dialer.context()  # what is wrong with the credentials shall show at the start, not at the first signature
    dialer.hello()
    _make_directories(config)
    trio.run(_until_signal, config)


def _make_directories(config: RelayConfig) -> None:
    try:
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        for one in config.sockets:
            one.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be made: {error.strerror}") from error


async def _until_signal(config: RelayConfig) -> None:
    stop = trio.Event()

    async def serve_until_drained() -> None:
        async with trio.open_nursery() as nursery:
            relay = await nursery.start(serve, config)
            systemd.notify(READY="1")
            # What the imports left behind lives as long as we do: no need to look at it in each collection.
            gc.collect()
            gc.freeze()
            await stop.wait()
            await relay.client.idle()
            await trio.sleep(LAST_REPLIES_SECONDS)
            nursery.cancel_scope.cancel()

    await serve_until_stopped(serve_until_drained, drain=stop.set, drain_seconds=DRAIN_SECONDS)


async def serve(config: RelayConfig, task_status: trio.TaskStatus[Relay] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until cancelled; started when all sockets listen.

    Raises:
        ConfigError: a socket cannot be bound, or another relay serves there.
    """
    relay = Relay(config)
    relay.load()
    listeners, control = _listeners(config, relay.doors)

    async def serve_control_stream(stream: trio.SocketStream) -> None:
        # Most relays are never asked, and starting without these is quicker.
        from relay.control import serve_control  # noqa: PLC0415
        from relay.statusanswers import control_table  # noqa: PLC0415

        await serve_control(stream, control_table(relay))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.client.run)
            nursery.start_soon(relay.heads.keep)
            nursery.start_soon(relay.departures.run)
            most = room_for(config.max_connections)
            for listener, door in listeners:
                serve_gpg = functools.partial(relay.serve_gpg, door=door)
                nursery.start_soon(accept_forever, listener, serve_gpg, most)
            nursery.start_soon(accept_forever, control, serve_control_stream, MAX_CONTROL_CONNECTIONS)
            logger.info("serving, runner=%s sockets=%s", config.name, ",".join(door.name for _, door in listeners))
            task_status.started(relay)
    finally:
        for listener in (*(listener for listener, _ in listeners), control):
            listener.socket.close()


def _listeners(
    config: RelayConfig, doors: Sequence[Door]
) -> tuple[list[tuple[trio.SocketListener, Door]], trio.SocketListener]:
    """The sockets for gpg, systemd's if it passed any, and the control socket.

    systemd's are known by FileDescriptorName=: `control`, or the name of one of `sockets` in relay.yaml.
    """
    passed = systemd.listeners({CONTROL_NAME, *(door.name for door in doors)}, {socket.AF_UNIX})
    # The control socket first: it is what refuses a second relay with the same state.
    control = passed[CONTROL_NAME][0] if CONTROL_NAME in passed else bind(config.control_socket, 0o660)
    if not passed.keys() - {CONTROL_NAME}:
        return [(bind(one.path, one.bits), door) for one, door in zip(config.sockets, doors, strict=True)], control
    return [(listener, door) for door in doors for listener in _inherited(passed, door)], control


def _inherited(passed: Mapping[str, list[trio.SocketListener]], door: Door) -> list[trio.SocketListener]:
    if door.name not in passed:
        logger.warning("systemd did not pass this socket, nobody can use it, socket=%s path=%s", door.name, door.path)
        return []
    for listener in passed[door.name]:
        check_inherited(listener, door.path)
    return passed[door.name]
