"""The result: a row for each thing measured, printed as a table and written as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

__all__ = ["Row", "at_least", "at_most", "print_table", "reached", "shown", "within", "write"]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: `ours` and `reference` in the unit that `what` names; `ratio` is ours / reference.

    `stolen` is the share of the processors' time, 0 to 1, that the hypervisor gave to others while its group was
    measured.
    """

    what: str
    ours: float
    reference: float | None
    ratio: float | None
    goal: str | None
    met: bool | None
    stolen: float = 0.0


def _ratio(ours: list[float], reference: list[float]) -> float:
    """Median of the rounds' ratios: a slow minute of the machine hits both sides of a round."""
    return median(o / r for o, r in zip(ours, reference, strict=True))


def at_most(what: str, ours: list[float], reference: list[float], goal: float) -> Row:
    """A row for something that should be small; the lists hold one value a round."""
    ratio = _ratio(ours, reference)
    return Row(what, median(ours), median(reference), ratio, f"<= {goal:g}", ratio <= goal)


def at_least(what: str, ours: list[float], reference: list[float], goal: float) -> Row:
    """A row for something that should be large."""
    ratio = _ratio(ours, reference)
    return Row(what, median(ours), median(reference), ratio, f">= {goal:g}", ratio >= goal)


def within(what: str, ours: list[float], reference: list[float] | None, goal: float) -> Row:
    """A row whose goal is for our own value, whatever the reference has."""
    row = shown(what, ours, reference)
    return Row(what, row.ours, row.reference, row.ratio, f"ours <= {goal:g}", row.ours <= goal)


def reached(what: str, ours: float, goal: float) -> Row:
    """A row with a goal that no reference moves."""
    return Row(what, ours, None, None, f">= {goal:g}", ours >= goal)


def shown(what: str, ours: list[float], reference: list[float] | None = None) -> Row:
    """A row without a goal."""
    if reference is None:
        return Row(what, median(ours), None, None, None, None)
    return Row(what, median(ours), median(reference), _ratio(ours, reference), None, None)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def print_table(rows: list[Row]) -> None:
    """Print the rows for people."""
    width = max(len(row.what) for row in rows)
    print(f"{'what':<{width}}  {'ours':>10}  {'reference':>10}  {'ratio':>8}  {'goal':>11}  met  stolen")
    for row in rows:
        verdict = {True: "yes", False: "NO", None: ""}[row.met]
        cells = f"{_cell(row.ours):>10}  {_cell(row.reference):>10}  {_cell(row.ratio):>8}  {row.goal or '':>11}"
        print(f"{row.what:<{width}}  {cells}  {verdict:<3}  {row.stolen:>6.1%}")


def write(rows: list[Row], path: Path) -> None:
    """Write the rows as a JSON list of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = Row.__slots__
    path.write_text(json.dumps([{name: getattr(row, name) for name in names} for row in rows], indent=1) + "\n")
