"""`blind-oracle audit query`."""

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from agentproxy.admin.auditindex import AuditIndex, Found
from agentproxy.admin.auditplace import (
    NOT_A_TERMINAL,
    cache_option,
    directory_argument,
    json_option,
    log_option,
    place_of_log,
)
from agentproxy.admin.auditquery import Query, parse_moment
from agentproxy.admin.layout import config_option
from agentproxy.admin.records import COLUMNS, summary
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.protocol.times import format_time

__all__ = ["query"]

_CSV = (
    "sequence", "time", "node", "operation", "outcome", "reason", "key", "fingerprint", "hash_algorithm", "digest",
    "request", "repetitions", "runner", "token", "address", "distribution", "claimed_user", "claimed_package",
    "claimed_file", "claimed_job",
)  # fmt: skip


@click.command("query")
@directory_argument
@log_option
@click.option("--runner", help="Whose request it was.")
@click.option("--key", help="The key's name.")
@click.option("--since", help="From this date or time on; UTC unless it says otherwise.")
@click.option("--until", help="Before this date or time.")
@click.option("--digest", help="What was signed, in hex: all of it or its first 8 digits or more.")
@click.option(
    "--package", help="A package's name, or NAME-[EPOCH:]VERSION-RELEASE.ARCH; * and ? stand for anything. Claimed."
)
@click.option("--outcome", type=click.Choice([outcome.value for outcome in Outcome]), help="What became of it.")
@click.option("--job", help="A value, or NAME=VALUE, of what the CI system said about the job. Claimed.")
@click.option("--request", help="The relay's request id.")
@click.option("--channel", help="How it came: relay, http, fallback (a build server signed by itself), …")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="For spreadsheets.")
@cache_option
@click.option("--rebuild", is_flag=True, help="Make the index anew.")
@config_option
def query(  # noqa: PLR0913, PLR0917  one parameter for each option
    directory: Path | None,
    log: Path | None,
    runner: str | None,
    key: str | None,
    since: str | None,
    until: str | None,
    digest: str | None,
    package: str | None,
    outcome: str | None,
    job: str | None,
    request: str | None,
    channel: str | None,
    as_json: bool,  # noqa: FBT001  a flag of the command line
    as_csv: bool,  # noqa: FBT001
    cache: Path,
    rebuild: bool,  # noqa: FBT001
    config: Path,
) -> None:
    """Find records. A request that a runner repeated, for the same digest, is shown once, with how often it came.

    The index that makes it quick can be deleted at any time; every record is read from the log itself. Whether the log
    is whole, `audit verify` says.
    """
    wanted = Query(
        runner=runner,
        key=key,
        since=None if since is None else parse_moment(since),
        until=None if until is None else parse_moment(until),
        digest=None if digest is None else digest.lower(),
        package=package,
        outcome=outcome,
        job=job,
        request=request,
        channel=channel,
    )
    with AuditIndex.open(place_of_log(directory, log, config), cache, rebuild=rebuild) as index:
        found = index.find(wanted)
        if as_json:
            _print_json(found)
        elif as_csv:
            _print_csv(found)
        else:
            _print_table(found)


def _print_json(found: Iterable[Found]) -> None:
    for each in found:
        click.echo(f'{{"sequences":{json.dumps(each.sequences)},"record":{each.line.decode("ascii")}}}')


def _print_csv(found: Iterable[Found]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(_CSV)
    for each in found:
        writer.writerow([_cell(value) for value in _values(each)])


def _cell(value: str) -> str:
    # Claims come from whoever owns a build server; a spreadsheet would run these as formulas.
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _values(found: Found) -> tuple[str, ...]:
    record, entry, asserted = found.record, found.record.entry, found.record.entry.asserted
    claims = asserted.claims
    return (
        str(record.sequence),
        format_time(record.time),
        record.node,
        entry.operation,
        entry.outcome.value,
        entry.reason,
        entry.key or "",
        str(entry.fingerprint or ""),
        "" if entry.digest is None else entry.digest.algorithm.name.lower(),
        "" if entry.digest is None else entry.digest.value.hex(),
        entry.request or "",
        str(len(found.sequences)),
        asserted.runner or "",
        asserted.token or "",
        asserted.address or "",
        asserted.distribution or "",
        "" if claims is None else claims.user or "",
        "" if claims is None else claims.package or "",
        "" if claims is None else claims.file or "",
        "" if claims is None else " ".join(f"{name}={value}" for name, value in claims.job.items()),
    )


def _print_table(found: Iterable[Found]) -> None:
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = NOT_A_TERMINAL
    table = Table(*COLUMNS, "times", box=None, pad_edge=False, header_style="bold")
    for each in found:
        table.add_row(*summary(each.record), str(len(each.sequences)))
    console.print(table)
