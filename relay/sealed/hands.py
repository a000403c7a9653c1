"""Threads for what blocks, and for many small pieces of it.

`trio.to_thread` takes 60 us of processor time for each piece. Here all that was done meanwhile is told to the event
loop in one waking, which makes it 4 us. And there are no more threads than are of use: of those that compute, only one
can have the interpreter, and two that take it from each other need a quarter more processor time.
"""

import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, NoReturn, TypeVar

import outcome
import trio

from agentproxy.protocol.errors import LocalProtocolError

__all__ = ["Hands", "hands"]

# To read or write a small package takes half a millisecond. Who needs four times as long for each piece waits for a
# disk, or hashes what is large: meanwhile others can work.
LOOK_SECONDS = 0.05
QUICK_PIECES = 25  # between two looks

T = TypeVar("T")


class _Piece(Generic[T]):
    """Work, and what became of it."""

    def __init__(self, work: Callable[[], T], task: trio.lowlevel.Task) -> None:
        self._work = work
        self._outcome: outcome.Maybe[T] | None = None
        self.task = task  # waits for it

    def do(self) -> None:
        """Run it, in a thread."""
        # Takes whatever is raised, also what is no Exception, as a panic of rpm-rs: if this thread ended, whoever asked
        # could be neither woken nor cancelled.
        self._outcome = outcome.capture(self._work)

    def result(self) -> T:
        """What it came to; raises what it raised. Once."""
        return self._taken().unwrap()

    def _taken(self) -> outcome.Maybe[T]:
        # An error knows the frames that it passed, and one of them this piece: if this piece knew the error, too, they
        # would keep what was worked on, such as a package's header, until a collection finds them.
        taken, self._outcome = self._outcome, None
        if taken is None:
            raise LocalProtocolError("it was not done")
        return taken


class Hands:
    """Threads that work until the block of `hands` ends.

    Args:
        most: threads; there is one until more are of use.

    Attributes:
        is_given_up: somebody who waits for work was cancelled; what takes long looks at it between its steps.
    """

    def __init__(self, most: int) -> None:
        self.is_given_up = False
        self._most = most
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the next one
        self._done: list[trio.lowlevel.Task] = []
        self._asked_for = 0
        self._delivered = 0
        self._token = trio.lowlevel.current_trio_token()
        self._threads: list[threading.Thread] = []
        self._put_on()

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work()`, which runs in a thread; it is waited for also when we are cancelled."""
        piece = _Piece(work, trio.lowlevel.current_task())

        def do() -> None:
            piece.do()
            self._tell(piece.task)

        self._asked.put(do)
        self._asked_for += 1
        # Without an event and a shielded scope, which would take longer than all the rest of the event loop's part.
        await trio.lowlevel.wait_task_rescheduled(self._until_it_is_done)
        return piece.result()

    def _until_it_is_done(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self.is_given_up = True
        return trio.lowlevel.Abort.FAILED

    async def oversee(self) -> NoReturn:
        """Put on more threads while work waits long and those there are do little of it; until cancelled."""
        while True:
            asked, delivered = self._asked_for, self._delivered
            await trio.sleep(LOOK_SECONDS)
            begun = self._asked_for - self._asked.qsize()
            if begun < asked and self._delivered - delivered < QUICK_PIECES:
                with contextlib.suppress(RuntimeError):  # a host that has room for no more: those there are do it all
                    for _ in range(min(len(self._threads), self._most - len(self._threads))):
                        self._put_on()

    def dismiss(self) -> None:
        """End all threads; it blocks until they have done what was asked."""
        for _ in self._threads:
            self._asked.put(None)
        for thread in self._threads:
            thread.join()

    def _put_on(self) -> None:
        thread = threading.Thread(target=self._work, name=f"hand-{len(self._threads)}")
        thread.start()
        self._threads.append(thread)  # not one that cannot be had: nobody could wait for its end

    def _work(self) -> None:
        """A thread's life."""
        while (do := self._asked.get()) is not None:
            do()

    def _tell(self, task: trio.lowlevel.Task) -> None:
        with self._lock:
            is_first = not self._done  # else somebody has woken the event loop, which will take all
            self._done.append(task)
        if is_first:
            self._token.run_sync_soon(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        self._delivered += len(done)
        for task in done:
            trio.lowlevel.reschedule(task)


@asynccontextmanager
async def hands(most: int) -> AsyncIterator[Hands]:
    """Up to `most` threads for as long as the block lasts."""
    made = Hands(most)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.oversee)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        made.dismiss()
