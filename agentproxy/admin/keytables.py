"""How `key list` and `key show` print: a table, a sheet for each key, or plain values for JSON."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from agentproxy.admin.keylisting import KeyRow, KeyUse
from agentproxy.protocol.times import format_time

__all__ = ["plain", "sheet", "table"]


def table(rows: Iterable[tuple[KeyRow, KeyUse | None]]) -> Table:
    """One line for each key."""
    columns = ("name", "fingerprint", "usage", "expires", "type", "distributions", "runners", "risks")
    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row, use in rows:
        made.add_row(
            row.name,
            str(row.entry.fingerprint),
            _usage(row),
            _expires(row),
            *_of_policy(use),
            "; ".join(row.risks),
        )
    return made


def sheet(row: KeyRow, use: KeyUse | None) -> Table:
    """Everything about one key, a line for each thing."""
    made = Table(box=None, pad_edge=False, show_header=False)
    entry = row.entry
    key_type, distributions, runners = _of_policy(use)
    for name, value in (
        ("name", row.name),
        ("user ID", entry.user_id),
        ("fingerprint", str(entry.fingerprint)),
        ("certificate", str(entry.primary)),
        ("keygrip", str(entry.keygrip)),
        ("usage", _usage(row)),
        ("hash algorithms", ", ".join(algorithm.name.lower() for algorithm in entry.hash_algorithms)),
        ("created", f"{entry.created:%Y-%m-%d}"),
        ("expires", _expires(row)),
        ("key file", "there" if row.has_file else "missing"),
        ("type", key_type),
        ("distributions", distributions),
        ("runners", runners),
        ("risks", "\n".join(row.risks) or "none"),
    ):
        made.add_row(name, value)
    made.add_row("")
    return made


def plain(row: KeyRow, use: KeyUse | None) -> dict[str, object]:
    """The same for machines; `policy` is null while the policy is wrong."""
    entry = row.entry
    return {
        "name": row.name,
        "fingerprint": str(entry.fingerprint),
        "primary": str(entry.primary),
        "keygrip": str(entry.keygrip),
        "user_id": entry.user_id,
        "usage": [usage.value for usage in entry.usage],
        "hash_algorithms": [algorithm.name.lower() for algorithm in entry.hash_algorithms],
        "created": format_time(entry.created),
        "expires": None if entry.expires is None else format_time(entry.expires),
        "seal_only": entry.seal_only,
        "accept_certification": entry.accept_certification,
        "has_key_file": row.has_file,
        "risks": list(row.risks),
        "policy": None if use is None else _plain_use(use),
    }


def _plain_use(use: KeyUse) -> dict[str, object]:
    return {
        "name": use.name,
        "type": use.type or None,
        "distributions": list(use.distributions),
        "runners": list(use.runners),
    }


def _usage(row: KeyRow) -> str:
    only = [" (seal only)"] if row.entry.seal_only else []
    return ", ".join(usage.value for usage in row.entry.usage) + "".join(only)


def _expires(row: KeyRow) -> str:
    expires = row.entry.expires
    return "never" if expires is None else f"{expires:%Y-%m-%d}"


def _of_policy(use: KeyUse | None) -> Sequence[str]:
    if use is None:
        return ("?", "?", "?")
    if use.name is None:
        return ("not in the policy", "", "")
    return (use.type, " ".join(use.distributions) or "any", " ".join(use.runners) or "nobody")
