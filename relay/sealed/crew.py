"""Threads that share what is to be done, one step at a time.

There are no more of them than are of use: of those that compute, only one can have the interpreter, and two that take
it from each other need a quarter more processor time.
"""

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

__all__ = ["Crew", "Work"]

# To read or write a small package takes half a millisecond. Where a step takes four times as long, a thread waits for a
# disk, or hashes what is large: meanwhile others can work.
LOOK_SECONDS = 0.05
QUICK_STEPS = 25  # between two looks


class Work(Protocol):
    """What a crew does. It is asked under the crew's lock; steps are done without."""

    def next_step(self) -> Callable[[], None] | None:
        """What somebody is to do now; None: nothing before another step is done."""
        ...

    def is_over(self) -> bool:
        """Whether nothing is left to be done, and nobody does anything."""
        ...

    def is_waiting(self) -> bool:
        """Whether there is work that nobody does yet; what a step of somebody else must bring first is none."""
        ...

    def give_up(self) -> None:
        """Let those go who wait in a step for somebody else: the run ends."""
        ...


class Crew:
    """Does one piece of work.

    Args:
        most: threads; there is one until more are of use.
        work: what is done.

    Attributes:
        changed: whoever holds it may change what `work` decides by.
        is_given_up: the run ends; what takes long looks at it between its parts.
    """

    def __init__(self, most: int, work: Work) -> None:
        self.changed = threading.Condition()
        self.is_given_up = False
        self._most = most
        self._work = work
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        self._steps = 0  # that were done since the last look
        self._was_waiting = False  # at the last look
        self._error: BaseException | None = None

    def run(self, is_interrupted: Callable[[], bool]) -> bool:
        """Work until all is done, or somebody interrupts it: then what was begun is brought to an end.

        Args:
            is_interrupted: asked every LOOK_SECONDS.

        Returns:
            Whether all was done, and nobody had interrupted it.

        Raises:
            BaseException: the first that a step raised.
        """
        self._put_on()
        try:
            while not self._over.wait(LOOK_SECONDS) and not is_interrupted():
                self._look()
        finally:
            self.give_up()
            for thread in self._threads:
                thread.join()
        if self._error is not None:
            raise self._error
        return self._work.is_over() and not is_interrupted()

    def give_up(self) -> None:
        """Let no further step begin."""
        with self.changed:
            self.is_given_up = True
            self.changed.notify_all()
        self._work.give_up()

    def fail(self, error: BaseException) -> None:
        """Let the run end with `error`."""
        if self._error is None:
            self._error = error
        self.give_up()
        self._over.set()

    def _look(self) -> None:
        """Put on more threads where work has waited since the last look, and those there are did little of it."""
        with self.changed:
            done, self._steps = self._steps, 0
            was_waiting, self._was_waiting = self._was_waiting, self._work.is_waiting()
            if self._was_waiting:
                self.changed.notify_all()  # it may be time that has brought it, and nobody's step
        if was_waiting and self._was_waiting and done < QUICK_STEPS:
            with contextlib.suppress(RuntimeError):  # a host that has room for no more: those there are do it all
                for _ in range(min(len(self._threads), self._most - len(self._threads))):
                    self._put_on()

    def _put_on(self) -> None:
        thread = threading.Thread(target=self._live, name=f"hand-{len(self._threads)}")
        thread.start()
        self._threads.append(thread)  # not one that cannot be had: nobody could wait for its end

    def _live(self) -> None:
        """A thread's life."""
        with _Failing(self):
            while (step := self._next()) is not None:
                step()
                with self.changed:
                    self._steps += 1
                    self.changed.notify_all()
        self._over.set()

    def _next(self) -> Callable[[], None] | None:
        with self.changed:
            while not self.is_given_up:
                if self._work.is_over():
                    self.changed.notify_all()
                    return None
                step = self._work.next_step()
                if step is not None:
                    return step
                self.changed.wait()
        return None


class _Failing:
    """Takes whatever is raised in a thread, also what is no Exception, as a panic of rpm-rs; it comes out of `run`."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Let the crew end with it."""
        if error is not None:
            self._crew.fail(error)
        return error is not None
