"""`blind-oracle-relay serve`: sockets, the connection to the oracle, and the end of both."""

import gc
import logging
from pathlib import Path

import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime import logs, systemd
from agentproxy.runtime.serve import accept_forever, room_for, serve_until_stopped
from agentproxy.runtime.unixsocket import bind
from relay.config import RelayConfig, load_config
from relay.dial import Dialer
from relay.service import Relay

__all__ = ["run", "serve"]

logger = logging.getLogger(__name__)

# How long requests that are under way may take when the relay is told to stop.
DRAIN_SECONDS = 5.0
# What the oracle answered last must still reach gpg.
LAST_REPLIES_SECONDS = 0.1
MAX_CONTROL_CONNECTIONS = 16
# The name (FileDescriptorName=) of the control socket among systemd's; every other one is for gpg.
CONTROL = "control"


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
    listeners, control = _listeners(config)

    async def serve_control_stream(stream: trio.SocketStream) -> None:
        # Most relays are never asked, and starting without these is quicker.
        from relay.control import serve_control  # noqa: PLC0415
        from relay.statusanswers import control_table  # noqa: PLC0415

        await serve_control(stream, control_table(relay))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.client.run)
            nursery.start_soon(relay.heads.keep)
            most = room_for(config.max_connections)
            for listener in listeners:
                nursery.start_soon(accept_forever, listener, relay.serve_gpg, most)
            nursery.start_soon(accept_forever, control, serve_control_stream, MAX_CONTROL_CONNECTIONS)
            logger.info("serving, runner=%s sockets=%s", config.name, ",".join(str(one.path) for one in config.sockets))
            task_status.started(relay)
    finally:
        for listener in (*listeners, control):
            listener.socket.close()


def _listeners(config: RelayConfig) -> tuple[list[trio.SocketListener], trio.SocketListener]:
    """The sockets for gpg, systemd's if it passed any, and the control socket."""
    passed = systemd.listen_fds()
    inherited: dict[str, list[trio.SocketListener]] = {}
    for name, sockets in passed.items():
        for one in sockets:
            one.setblocking(False)  # noqa: FBT003  the socket module's own signature
        inherited[name] = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in sockets]
    # The control socket first: it is what refuses a second relay with the same state.
    control = (inherited.pop(CONTROL, None) or [bind(config.control_socket, 0o660)])[0]
    for_gpg = [listener for group in inherited.values() for listener in group]
    return for_gpg or [bind(one.path, one.bits) for one in config.sockets], control
