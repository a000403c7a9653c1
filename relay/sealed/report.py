"""What `blind-oracle-sign` says: a line of JSON a file for programs; a bar, troubles and a sum for people."""

import contextlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.times import format_time
from relay.sealed.fate import Outcome, Result

__all__ = ["Report", "shown"]

_SHORTEST, _LONGEST = 4, 36  # characters of the bar alone
_WAITING = 64  # results that are not written yet; then no further file is begun
LOOK_SECONDS = 0.05  # between two looks whether somebody has interrupted us


class Report:
    """Takes results as they come, in any thread.

    It writes in a thread of its own, since whoever reads may be slow, and meanwhile the oracle answers.

    Args:
        total: how many there will be.
        as_json: a line of JSON for each instead of words.
        quiet: say only what went wrong.
        is_interrupted: whether nobody waits any more for whoever reads.
    """

    def __init__(
        self, total: int, *, as_json: bool, quiet: bool, is_interrupted: Callable[[], bool] = lambda: False
    ) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._is_interrupted = is_interrupted
        self._counts: Counter[Outcome] = Counter()
        self._last: Result | None = None  # of those that were signed
        width = 0 if as_json or quiet or total < 2 else _bar_width(total)
        self._bar = (
            click.progressbar(range(total), label="signing", file=sys.stderr, show_pos=True, width=width)
            if width
            else None
        )
        self._changed = threading.Condition()
        self._unwritten: list[Result] = []
        self._is_ended = False
        self._problem: ConfigError | None = None  # why nothing can be written
        self._writer: threading.Thread | None = None  # from the first result that is written

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write what `tell` is told; at the end of the block all is written, or somebody has interrupted us.

        Raises:
            ConfigError: nobody reads, or the disk behind it is full.
        """
        with self._bar or contextlib.nullcontext():
            try:
                yield
            finally:
                with self._changed:
                    self._is_ended = True
                    self._changed.notify_all()
                self._wait_for_writer()
        if self._problem is not None:
            raise self._problem

    def _wait_for_writer(self) -> None:
        while self._writer is not None and self._writer.is_alive() and not self._is_interrupted():
            self._writer.join(LOOK_SECONDS)

    def tell(self, result: Result) -> None:
        """One file is done with; returns once there is room for what is to be said of it.

        Raises:
            ConfigError: as in `writing`.
        """
        with self._changed:
            self._counts[result.outcome] += 1
            if result.outcome is Outcome.SIGNED:
                self._last = result
            if not self._as_json and self._bar is None and result.outcome is not Outcome.FAILED:
                return
            while len(self._unwritten) >= _WAITING and self._problem is None and not self._is_interrupted():
                self._changed.wait(LOOK_SECONDS)
            if self._problem is not None:
                raise self._problem
            self._unwritten.append(result)
            if self._writer is None:
                # Nobody waits for its end who has been interrupted: it may write to who never reads.
                self._writer = threading.Thread(target=self._write_all, name="report", daemon=True)
                self._writer.start()
            self._changed.notify_all()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._unwritten:
                    if self._is_ended:
                        return
                    self._changed.wait()
                results, self._unwritten = self._unwritten, []
                self._changed.notify_all()
            try:
                self._write(results)
            except ConfigError as error:
                with self._changed:
                    self._problem = error
                    self._changed.notify_all()
                return

    def _write(self, results: Sequence[Result]) -> None:
        with _telling():
            for result in results:
                self._write_one(result)

    def _write_one(self, result: Result) -> None:
        if self._as_json:
            click.echo(json.dumps(_plain(result)))
        elif result.outcome is Outcome.FAILED:
            above_the_bar = "" if self._bar is None else "\r\x1b[K"
            click.echo(f"{above_the_bar}blind-oracle-sign: error: {shown(result.file)}: {result.reason}", err=True)
        if self._bar is not None:
            self._bar.update(1)

    @property
    def is_written(self) -> bool:
        """Whether all that was told is written, behind `writing`; else the writer may still hold the stream."""
        return self._writer is None or not self._writer.is_alive()

    @property
    def is_good(self) -> bool:
        """Whether all files are as their user wants them."""
        return not self._counts[Outcome.FAILED] and not self._counts[Outcome.NOT_TRIED]

    def sum(self) -> None:
        """The last words.

        Raises:
            ConfigError: as in `writing`.
        """
        if self._as_json or (self._quiet and self.is_good):
            return
        counts = {outcome.value.replace("_", " "): self._counts[outcome] for outcome in Outcome}
        parts = [f"{count} {words}" for words, count in counts.items() if count]
        with _telling():
            click.echo(", ".join(parts) + _by(self._last), err=not self.is_good)


def _bar_width(total: int) -> int:
    """How long the bar can be on one line of the terminal; 0 where there is no room for one.

    A line that the terminal breaks is not overwritten by the next: each file would leave one behind.
    """
    if sys.stderr is None or not sys.stderr.isatty():  # None: it was closed when we began
        return 0
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        columns = 0
    if columns == 0:  # a serial line, for instance, does not know
        return _LONGEST
    room = columns - len(f"signing  []  {total}/{total}  00:00:00")
    return min(room, _LONGEST) if room >= _SHORTEST else 0


@contextmanager
def _telling() -> Iterator[None]:
    """Where nobody reads, or the disk behind it is full, the run ends with one line."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"what became of the files cannot be told: {error.strerror}") from error


def _by(result: Result | None) -> str:
    if result is None or result.sealed is None:
        return ""
    head = result.sealed.head
    return f"; key {result.sealed.seal.fingerprint}, last record {head.sequence} of {head.node}"


def shown(file: Path) -> str:
    """A file's name on one line, whatever it holds; quoted where it is not plain."""
    name = str(file)
    return name if name.isprintable() else ascii(name)


def _valid(file: Path) -> str:
    """A file's name as JSON can have it: what is no UTF-8 is U+FFFD, for half a surrogate pair is no text to others."""
    return os.fsencode(file).decode("utf-8", "replace")


def _plain(result: Result) -> dict[str, object]:
    plain: dict[str, object] = {"file": _valid(result.file), "outcome": result.outcome.value}
    if plain["file"] != str(result.file):
        plain["file_bytes"] = os.fsencode(result.file).hex()
    told: Sequence[tuple[str, str | None]] = (
        ("reason", result.reason or None),
        ("code", result.code or None),
        ("package", result.package),
        ("signature", None if result.signature is None else _valid(result.signature)),
    )
    plain |= {name: value for name, value in told if value is not None}
    if result.sealed is not None:
        seal, head = result.sealed.seal, result.sealed.head
        plain |= {
            "fingerprint": str(seal.fingerprint),
            "key_id": seal.key_id,
            "created": format_time(seal.created),
            "hash_algorithm": seal.digest.algorithm.name.lower(),
            "digest": seal.digest.value.hex(),
            "request": result.sealed.id,
            "node": head.node,
            "record": head.sequence,
        }
    return plain
