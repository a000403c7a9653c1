"""Runners and tokens as tables for a terminal and as JSON."""

import json
from collections.abc import Sequence
from datetime import datetime

import click
from rich.console import Console
from rich.table import Table

from agentproxy.admin.credentialrows import RunnerRow, TokenRow
from agentproxy.protocol.unstructure import unstructured

__all__ = ["print_json", "print_table", "runner_cells", "token_cells"]

_NOT_A_TERMINAL = 240  # columns, so that a file or a pipe gets whole lines

RUNNER_COLUMNS = ("runner", "state", "valid until (UTC)", "last used (UTC)", "tokens", "certificates")
TOKEN_COLUMNS = ("token", "runner", "kind", "state", "created (UTC)", "expires (UTC)", "last used (UTC)")


def runner_cells(rows: Sequence[RunnerRow]) -> Table:
    """A line for each runner."""
    table = _table(RUNNER_COLUMNS)
    for row in rows:
        table.add_row(row.name, row.state, _when(row.expires), _when(row.last_used), *map(str, row.good))
    return table


def token_cells(rows: Sequence[TokenRow]) -> Table:
    """A line for each token."""
    table = _table(TOKEN_COLUMNS)
    for row in rows:
        times = _when(row.created), _when(row.expires), _when(row.last_used)
        table.add_row(row.id, row.runner, row.kind, row.state, *times)
    return table


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _when(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def print_table(table: Table) -> None:
    """Print for a terminal, or whole lines for a pipe."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_NOT_A_TERMINAL)
    console.print(table)


def print_json(rows: object) -> None:
    """Print for machines; times as everywhere on our wires."""
    plain = unstructured(rows)
    click.echo(json.dumps(plain, indent=2))
