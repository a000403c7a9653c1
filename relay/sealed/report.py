"""What `blind-oracle-sign` says: a line of JSON a file for programs; a bar, troubles and a sum for people."""

import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import click
import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.wire import format_time
from relay.sealed.fate import Outcome, Result

__all__ = ["Report", "shown"]

_SHORTEST, _LONGEST = 4, 36  # characters of the bar alone
_WAITING = 64  # results that are not written yet; then no further file is begun


class Report:
    """Takes results as they come.

    It writes in a thread, since whoever reads may be slow: in the event loop that would let the deadlines of all that
    is under way pass.

    Args:
        total: how many there will be.
        as_json: a line of JSON for each instead of words.
        quiet: say only what went wrong.
    """

    def __init__(self, total: int, *, as_json: bool, quiet: bool) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._counts: Counter[Outcome] = Counter()
        self._last: Result | None = None  # of those that were signed
        width = 0 if as_json or quiet or total < 2 else _bar_width(total)
        self._bar = (
            click.progressbar(range(total), label="signing", file=sys.stderr, show_pos=True, width=width)
            if width
            else None
        )
        self._results, self._arriving = trio.open_memory_channel[Result](_WAITING)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write what `tell` is told, until the block has ended and all is written.

        Raises:
            ConfigError: nobody reads, or the disk behind it is full.
        """
        with contextlib.ExitStack() as stack:
            if self._bar is not None:
                stack.enter_context(self._bar)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_all)
                with self._results:
                    yield

    async def tell(self, result: Result) -> None:
        """One file is done with; returns once there is room for what is to be said of it."""
        self._counts[result.outcome] += 1
        if result.outcome is Outcome.SIGNED:
            self._last = result
        if self._as_json or self._bar is not None or result.outcome is Outcome.FAILED:
            await self._results.send(result)
        else:
            await trio.lowlevel.checkpoint()

    async def _write_all(self) -> None:
        async for result in self._arriving:
            results = [result]
            with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                while True:
                    results.append(self._arriving.receive_nowait())
            # Who interrupts us does not wait for a reader that never comes.
            await trio.to_thread.run_sync(self._write, results, abandon_on_cancel=True)

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
