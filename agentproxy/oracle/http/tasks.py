"""The tasks in which a connection's requests are answered, in the form that hypercorn's protocol wants."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import trio
from hypercorn.config import Config
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

__all__ = ["AppTasks"]

_MOST_EVENTS = 4  # parts of a body that wait for the app; the reader waits for it then


class AppTasks:
    """Starts tasks in a connection's nursery.

    hypercorn's own leaves a reader waiting for ever when the app answers before it has read the whole body, and so a
    connection for ever open.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def __aenter__(self) -> Self:
        """Of hypercorn's interface: the nursery is the connection's to open and close."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """As above."""

    def spawn(  # type: ignore[explicit-any]  # hypercorn's interface
        self,
        func: Callable[..., Awaitable[object]],
        *args: object,
    ) -> None:
        """Run something of hypercorn's."""
        self._nursery.start_soon(func, *args)

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,  # noqa: ARG002  hypercorn's interface
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start answering one request; returns how its events are passed to the app."""
        events, received = trio.open_memory_channel[ASGIReceiveEvent](_MOST_EVENTS)

        async def run() -> None:
            with events, received:
                await app(scope, received.receive, send, trio.to_thread.run_sync, trio.from_thread.run)
            await send(None)

        async def put(event: ASGIReceiveEvent) -> None:
            try:
                if event["type"] == "http.disconnect":
                    events.send_nowait(event)  # sent by the app's own task, among others: it must never wait
                else:
                    await events.send(event)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.WouldBlock):
                pass  # it has its answer already, and reads no more

        self._nursery.start_soon(run)
        return put
