"""The life of a daemon, the same for relay, oracle and signer: serve, take signals, drain, end.

SIGTERM and SIGINT ask to end: what is in flight may finish for a while, a second signal ends at once. SIGHUP asks to
read the configuration again.
"""

import errno
import gc
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Generic, NoReturn, TypeVar

import trio

from agentproxy.runtime import systemd
from agentproxy.runtime.directstream import DirectStream

__all__ = ["Arrivals", "accept_forever", "keep_what_is_loaded", "serve_until_stopped"]

logger = logging.getLogger(__name__)

# Too many open files: waiting lets connections end. trio's own accept loop does the same.
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
FULL_PAUSE_SECONDS = 0.1

# New containers before a collection of the young ones (below a millisecond), how many of those before one of the
# middle-aged (a few), and of those before a full one. Only reference cycles wait for any of them; those that we have
# found in our own code are gone, but a library's may hold a connection's buffers.
COLLECTIONS = (2_000, 10, 50)

StreamT = TypeVar("StreamT", bound=trio.abc.AsyncResource)
Entrance = tuple[trio.abc.Listener[StreamT], Callable[[StreamT], Awaitable[None]], int]


def keep_what_is_loaded(*, collect: bool = True) -> None:
    """Let garbage collections look at what is young: the start's objects stay, and most others die without them.

    Called when the daemon begins to serve. A collection stops everything: with the results that an oracle keeps for
    repeats, Python's usual full ones took up to 120 ms, every few thousand signatures, and found nothing.

    Args:
        collect: look through everything once more, which takes 7 ms, and keeps nothing that is of no use.
    """
    if collect:
        gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)


async def serve_until_stopped(
    serve: Callable[[], Awaitable[None]],
    *,
    drain: Callable[[], None],
    drain_seconds: float,
    reload: Callable[[], None] | None = None,
) -> None:
    """Run `serve` until it returns or a signal asks to end.

    Args:
        serve: the daemon's work; it says READY itself (`systemd.notify`) once it can be reached.
        drain: called at the first SIGTERM or SIGINT; it makes `serve` stop taking work and return when what is in
            flight is done.
        drain_seconds: how long that may take before `serve` is cancelled. A second signal cancels at once.
        reload: called at each SIGHUP; it must not raise for a bad file but log it and keep what it has.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(systemd.keep_watchdog)
            nursery.start_soon(_attend, signals, drain, drain_seconds, reload, nursery.cancel_scope)
            await serve()
            nursery.cancel_scope.cancel()


async def _attend(
    signals: AsyncIterator[int],
    drain: Callable[[], None],
    drain_seconds: float,
    reload: Callable[[], None] | None,
    scope: trio.CancelScope,
) -> None:
    async for number in signals:
        if number == signal.SIGHUP:
            _reload(reload)
            continue
        logger.info("ending, signal=%s drain_seconds=%s", signal.Signals(number).name, drain_seconds)
        systemd.notify(STOPPING="1")
        drain()
        break
    with trio.move_on_after(drain_seconds):
        async for number in signals:
            if number != signal.SIGHUP:
                break
    scope.cancel()


def _reload(reload: Callable[[], None] | None) -> None:
    if reload is None:
        logger.warning("nothing here can be read again without a restart")
        return
    systemd.notify(RELOADING="1")
    reload()
    systemd.notify(READY="1")


async def accept_forever(
    listener: trio.abc.Listener[StreamT],
    handle: Callable[[StreamT], Awaitable[None]],
    most: int,
    connections: trio.Nursery | None = None,
) -> NoReturn:
    """Serve each connection in a task of its own, at most `most` at a time; further ones wait in the kernel's queue.

    `handle` closes its stream. An exception that it lets out ends its connection alone and is logged with its
    traceback: nothing that one peer can do may take the others down.

    Args:
        connections: where those tasks run, when they shall outlive the end of accepting; None: they end with it.
    """
    slots = trio.Semaphore(most, max_value=most)
    async with trio.open_nursery() as own:
        nursery = own if connections is None else connections
        while True:
            await slots.acquire()
            nursery.start_soon(_serve_one, await _accepted(listener), handle, slots.release)
    raise AssertionError("an endless loop ended")


class Arrivals(Generic[StreamT]):
    """Connections of several listeners, from the first to the last that is finished.

    When it ends, nobody has been turned away who could have been served: what it has accepted it finishes, and what
    it has not accepted stays in the kernel's queue, for whoever listens there next.

    Args:
        entrances: listeners, each with what serves its connections and closes them, and with how many may be open at
            once; further ones wait in the kernel's queue, so that a crowd at one of them does not close the others.
        is_busy: whether there is something to do although nobody is there.
    """

    def __init__(self, entrances: Sequence[Entrance[StreamT]], is_busy: Callable[[], bool] = lambda: False) -> None:
        self._is_busy = is_busy
        self._entrances = [(one, handle, trio.Semaphore(most, max_value=most)) for one, handle, most in entrances]
        self.open = 0
        self._quiet_since = trio.current_time()

    async def serve(self, stop: trio.Event, idle_seconds: float | None) -> None:
        """Accept until `stop`, or until there was nobody for so long (None: however long), then finish."""
        async with trio.open_nursery() as connections:
            while not stop.is_set():
                await self._accept(connections, stop, idle_seconds)
                # Who came while we stopped to accept is served, and nobody shall wait in the queue meanwhile.
                if not self.open:
                    break

    async def _accept(self, connections: trio.Nursery, stop: trio.Event, idle_seconds: float | None) -> None:
        async with trio.open_nursery() as accepting:
            for entrance in self._entrances:
                accepting.start_soon(self._accept_at, *entrance, connections)
            if idle_seconds is not None:
                accepting.start_soon(self._end_when_idle, idle_seconds, accepting.cancel_scope)
            await stop.wait()
            accepting.cancel_scope.cancel()

    async def _accept_at(
        self,
        listener: trio.abc.Listener[StreamT],
        handle: Callable[[StreamT], Awaitable[None]],
        slots: trio.Semaphore,
        connections: trio.Nursery,
    ) -> None:
        def leave() -> None:
            slots.release()
            self.open -= 1
            self._quiet_since = trio.current_time()

        while True:
            await slots.acquire()
            try:
                stream = await _accepted(listener)
            except trio.Cancelled:
                slots.release()
                raise
            # No await between accepting and counting: whoever has been accepted is known.
            self.open += 1
            connections.start_soon(_serve_one, stream, handle, leave)

    async def _end_when_idle(self, idle_seconds: float, accepting: trio.CancelScope) -> None:
        while True:
            is_needed = self.open or self._is_busy()
            left = idle_seconds if is_needed else self._quiet_since + idle_seconds - trio.current_time()
            if left <= 0:
                accepting.cancel()
                return
            await trio.sleep(left)


async def _accepted(listener: trio.abc.Listener[StreamT]) -> StreamT:
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            logger.error("no connection can be accepted, reason=%s", error.strerror)  # noqa: TRY400  no traceback
        await trio.sleep(FULL_PAUSE_SECONDS)


async def _serve_one(stream: StreamT, handle: Callable[[StreamT], Awaitable[None]], leave: Callable[[], None]) -> None:
    try:
        await handle(stream)
    except Exception:  # the one place around a whole connection
        logger.exception("a connection ended by an error of ours")
    finally:
        leave()
        # At once, too, and without what it takes to cancel a moment's wait.
        if isinstance(stream, DirectStream):
            stream.close()
        elif isinstance(stream, trio.SocketStream):
            stream.socket.close()
        else:
            await trio.aclose_forcefully(stream)
