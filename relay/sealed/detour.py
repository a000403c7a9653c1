"""The way around whatever is in the way: the relay's own client, in a thread with its event loop.

It knows how to find another oracle, to wait for a limit, and to ask again what an oracle failed.
"""

import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from queue import SimpleQueue

import trio

from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.seal_messages import Sealed
from agentproxy.protocol.values import frozen
from relay.config import RelayConfig
from relay.errors import UnreachableError
from relay.sealed.keychoice import KeyWanted
from relay.sealed.sealer import Sealer, open_sealer
from relay.signrequests import SealRequest

__all__ = ["Detour"]


@frozen
class _Errand:
    """What somebody wants of the client, and who is told that there is none."""

    run: Callable[[Sealer], Awaitable[None]]
    fail: Callable[[Exception], None]
    expires: float  # until when an oracle is waited for, on the monotonic clock


class Detour:
    """Connected from the first errand on until it is closed, or trying to be; any thread may call it.

    Args:
        config: the relay's.
        deliver: gets the id of each request and what it came to, in the event loop's thread; it must not block.

    Raises:
        UnreachableError: this host has no room for an event loop.
    """

    def __init__(self, config: RelayConfig, deliver: Callable[[str, Sealed | Exception], None]) -> None:
        self._config = config
        self._deliver = deliver
        self._under_way: set[_Errand] = set()
        self._scope = trio.CancelScope()
        self._errands, self._arriving = trio.open_memory_channel[_Errand](inf)
        began: SimpleQueue[trio.lowlevel.TrioToken | OSError] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(began,), name="detour", daemon=True)
        self._thread.start()
        result = began.get()
        if isinstance(result, OSError):
            raise UnreachableError(f"no other way to an oracle can be tried: {result.strerror}") from result
        self._token = result

    def _run(self, began: "SimpleQueue[trio.lowlevel.TrioToken | OSError]") -> None:
        try:
            trio.run(self._live, began)
        except OSError as error:  # an event loop needs some descriptors
            began.put(error)

    def ask(self, key: ServedKey, request: SealRequest, expires: float) -> None:
        """Ask for a signature by `key`; what comes of it is delivered, checked.

        Args:
            expires: on the monotonic clock; it may have waited on another way before.
        """

        async def run(sealer: Sealer) -> None:
            try:
                self._deliver(request.id, await sealer.ask(key, request, expires - time.monotonic()))
            except Exception as error:  # noqa: BLE001  it is for whoever asked
                self._deliver(request.id, error)

        self._send(_Errand(run, lambda error: self._deliver(request.id, error), expires))

    def choose(self, wanted: KeyWanted) -> ServedKey:
        """As `Sealer.choose`, once an oracle is there. It blocks.

        Raises:
            ConfigError: no key fits, or more than one, or the credentials cannot be read.
            UnreachableError, RejectedError: no oracle is there in time, or none takes this runner.
        """
        chosen: SimpleQueue[ServedKey | Exception] = SimpleQueue()

        async def run(sealer: Sealer) -> None:
            try:
                chosen.put(await sealer.choose(wanted))
            except Exception as error:  # noqa: BLE001  as above
                chosen.put(error)

        self._send(_Errand(run, chosen.put, time.monotonic() + self._config.deadline_seconds))
        result = chosen.get()
        if isinstance(result, Exception):
            raise result
        return result

    def _send(self, errand: _Errand) -> None:
        self._token.run_sync_soon(self._errands.send_nowait, errand)

    async def _live(self, began: "SimpleQueue[trio.lowlevel.TrioToken | OSError]") -> None:
        began.put(trio.lowlevel.current_trio_token())
        with self._scope:
            while True:
                first = await self._arriving.receive()
                self._under_way.add(first)
                try:
                    patience_seconds = first.expires - time.monotonic()
                    async with open_sealer(self._config, patience_seconds) as sealer, trio.open_nursery() as nursery:
                        nursery.start_soon(self._do, first, sealer)
                        async for errand in self._arriving:
                            self._under_way.add(errand)
                            nursery.start_soon(self._do, errand, sealer)
                except Exception as error:  # noqa: BLE001  as above
                    self._fail_all(error)

    async def _do(self, errand: _Errand, sealer: Sealer) -> None:
        await errand.run(sealer)
        self._under_way.remove(errand)

    def _fail_all(self, error: Exception) -> None:
        """Tell those who wait by now; for who comes later, the oracle may be back."""
        with suppress(trio.WouldBlock):
            while True:
                self._under_way.add(self._arriving.receive_nowait())
        while self._under_way:
            self._under_way.pop().fail(error)

    def close(self) -> None:
        """End it, whatever is under way. It blocks while the client says goodbye, some seconds at most."""
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()
