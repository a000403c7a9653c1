"""What `blind-oracle-sign` says: a line of JSON a file for programs; a bar, troubles and a sum for people."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from agentproxy.protocol.wire import format_time
from relay.sealed.batch import Outcome, Result

__all__ = ["Report", "shown"]


class Report:
    """Takes results as they come.

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
        has_bar = not as_json and not quiet and total > 1 and sys.stderr.isatty()
        self._bar = (
            click.progressbar(range(total), label="signing", file=sys.stderr, show_pos=True) if has_bar else None
        )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, traceback)

    def tell(self, result: Result) -> None:
        """One file is done with."""
        self._counts[result.outcome] += 1
        if result.outcome is Outcome.SIGNED:
            self._last = result
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
        """The last words."""
        if self._as_json or (self._quiet and self.is_good):
            return
        counts = {outcome.value.replace("_", " "): self._counts[outcome] for outcome in Outcome}
        parts = [f"{count} {words}" for words, count in counts.items() if count]
        click.echo(", ".join(parts) + _by(self._last), err=not self.is_good)


def _by(result: Result | None) -> str:
    if result is None or result.sealed is None:
        return ""
    head = result.sealed.head
    return f"; key {result.sealed.seal.fingerprint}, last record {head.sequence} of {head.node}"


def shown(file: Path) -> str:
    """A file's name on one line, whatever it holds; quoted where it is not plain."""
    name = str(file)
    return name if name.isprintable() else ascii(name)


def _plain(result: Result) -> dict[str, object]:
    plain: dict[str, object] = {"file": str(result.file), "outcome": result.outcome.value}
    told: Sequence[tuple[str, str | None]] = (
        ("reason", result.reason or None),
        ("code", result.code or None),
        ("package", result.package),
        ("signature", None if result.signature is None else str(result.signature)),
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
