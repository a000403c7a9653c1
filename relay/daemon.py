"""`blind-oracle-relay serve`: sockets, the connection to the oracle, and the end of both."""

import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime import logs, systemd
from agentproxy.runtime.directstream import DirectStream
from agentproxy.runtime.lockfile import held
from agentproxy.runtime.metricsconfig import MetricsConfig
from agentproxy.runtime.openfiles import room_for
from agentproxy.runtime.serve import Arrivals, Entrance, keep_what_is_loaded, serve_until_stopped
from agentproxy.runtime.shares import Shares
from agentproxy.runtime.unixsocket import peer_of
from relay.config import RelayConfig, load_config
from relay.dial import Dialer
from relay.greeter import Greeter
from relay.service import Relay
from relay.sockets import Sockets, open_sockets

__all__ = ["run", "serve"]

logger = logging.getLogger(__name__)

# Conversations may go on for so long when the relay is told to stop; the unit's limit (TimeoutStopSec=) is 30 s.
MAX_DRAIN_SECONDS = 25
MAX_CONTROL_CONNECTIONS = 128  # a quarter for each user: a mass rebuild asks for many keys in one moment


def run(config_path: Path) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: something that an operator must put right before the relay can start.
    """
    config = load_config(config_path)
    logs.configure(config.log_level.upper())
    _check_credentials(config)
    _make_directories(config)
    trio.run(_until_signal, config)


def _check_credentials(config: RelayConfig) -> None:
    """What is wrong with them shall show at the start, not at the first signature."""
    dialer = Dialer(config)
    try:
        dialer.context()
        dialer.hello()
    except ConfigError as error:
        again = f"blind-oracle runner enroll {config.name} on the oracle's host, and with the file that it writes"
        hint = f"{again}: blind-oracle-relay enroll FILE --replace"
        raise ConfigError(str(error), error.hint or hint) from error


def _make_directories(config: RelayConfig) -> None:
    try:
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        for one in config.sockets:
            one.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be made: {error.strerror}") from error


async def _until_signal(config: RelayConfig) -> None:
    stop = trio.Event()
    # Whatever gpg asked for is over by then, one way or the other.
    drain_seconds = float(min(config.deadline_seconds, MAX_DRAIN_SECONDS))
    await serve_until_stopped(
        functools.partial(_serve_ready, config, stop), drain=stop.set, drain_seconds=drain_seconds
    )


async def _serve_ready(config: RelayConfig, stop: trio.Event) -> None:
    async with trio.open_nursery() as nursery:
        relay = await nursery.start(serve, config, stop)
        systemd.notify(READY="1", STATUS=_status(relay))
        keep_what_is_loaded(collect=False)  # gpg may wait already, and it would find a tenth of a MB at most


async def serve(
    config: RelayConfig, stop: trio.Event | None = None, task_status: trio.TaskStatus[Relay] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until `stop` and the end of the last conversation, until nobody came for long, or until cancelled.

    Started when all sockets listen. systemd's sockets stay in its hands: who connects while we leave waits there.

    Raises:
        ConfigError: a socket cannot be bound, or another relay serves there.
    """
    with held(config.state / "relay.lock", "relay"):
        relay = Relay(config)
        relay.load()
        sockets = open_sockets(config, relay.doors)
        try:
            async with trio.open_nursery() as nursery:
                status = functools.partial(keep_status, relay)
                for task in (
                    relay.client.run,
                    relay.heads.keep,
                    relay.departures.run,
                    relay.keep_fallback,
                    relay.log.afterwards.run,
                    relay.wakefulness.run,
                    status,
                ):
                    nursery.start_soon(task)
                if config.metrics is not None:
                    nursery.start_soon(await _metrics(relay, config.metrics))
                arrivals = Arrivals(_entrances(relay, sockets), relay.has_duties)
                logger.info(
                    "serving, runner=%s sockets=%s", config.name, ",".join(door.name for door, _ in sockets.gpg)
                )
                task_status.started(relay)
                await arrivals.serve(trio.Event() if stop is None else stop, _idle_seconds(config, sockets))
                systemd.notify(STOPPING="1")
                nursery.cancel_scope.cancel()
        finally:
            sockets.close()
            relay.close()


def _entrances(relay: Relay, sockets: Sockets) -> Sequence[Entrance[DirectStream]]:
    room = room_for(relay.config.max_connections * len(sockets.gpg) + MAX_CONTROL_CONNECTIONS)
    most = max(1, (room - MAX_CONTROL_CONNECTIONS) // max(1, len(sockets.gpg)))
    entrances = [(Greeter(one), functools.partial(relay.serve_gpg, door=door), most) for door, one in sockets.gpg]
    control = Greeter(sockets.control, greeting=b"")  # whoever comes here speaks first
    answer = functools.partial(_serve_control, relay, Shares(MAX_CONTROL_CONNECTIONS))
    return [*entrances, (control, answer, MAX_CONTROL_CONNECTIONS)]


async def _serve_control(relay: Relay, shares: Shares, stream: DirectStream) -> None:
    # Most relays are never asked, and starting without these is quicker.
    from relay.control import serve_control, turn_away  # noqa: PLC0415
    from relay.statusanswers import control_table  # noqa: PLC0415

    peer = peer_of(stream)
    # Who may sign may ask, too: a job that connects and says nothing must not keep root from switching.
    with shares.place(str(peer.uid)) as has_place:
        if has_place:
            await serve_control(stream, control_table(relay, peer))
        else:
            await turn_away(stream)


def _idle_seconds(config: RelayConfig, sockets: Sockets) -> float | None:
    if config.exit_when_idle_seconds is not None and not sockets.are_inherited:
        logger.warning("exit_when_idle_seconds counts only when systemd holds the sockets; this relay stays")
        return None
    return config.exit_when_idle_seconds


async def _metrics(relay: Relay, config: MetricsConfig) -> Callable[[], Awaitable[None]]:
    """What tells them until it is cancelled; it listens already."""
    try:
        # Two packages that relays without metrics need not have.
        from agentproxy.runtime.scrape import open_metrics, serve_metrics  # noqa: PLC0415
        from relay.metrics import RelayMetrics  # noqa: PLC0415
    except ImportError as error:
        hint = "pip install 'blind-oracle[metrics]', or take metrics out of relay.yaml"
        raise ConfigError(f"metrics: {error.name} is not installed", hint) from error
    listeners = await open_metrics(config)
    return functools.partial(serve_metrics, listeners, RelayMetrics(relay).render)


async def keep_status(relay: Relay) -> None:
    """Let `systemctl status` show how the relay is."""
    await systemd.keep_status(functools.partial(_status, relay))


def _status(relay: Relay) -> str:
    state = relay.client.state
    relay.log.write_late()
    way = f"connected to {state.node} at {state.address}" if state.connected else f"not connected: {state.problem}"
    counts = ", ".join(f"{count} {outcome.value}" for outcome, count in relay.log.counts.items())
    own = "FALLBACK ACTIVE; " if relay.fallback is not None and relay.fallback.is_active else ""
    return f"{own}{way}; {relay.connections} gpg now; {counts}"
