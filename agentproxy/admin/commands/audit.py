"""`blind-oracle audit`."""

import json
from collections.abc import Iterable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from agentproxy.admin.auditplace import NOT_A_TERMINAL, directory_argument, json_option, log_option, place_of_log
from agentproxy.admin.commands.auditcompare import reconcile_
from agentproxy.admin.commands.auditfiles import who_signed
from agentproxy.admin.commands.auditsearch import query
from agentproxy.admin.commands.auditship import export_
from agentproxy.admin.heads import heads_of
from agentproxy.admin.layout import config_option, load_oracle, load_signer
from agentproxy.admin.records import COLUMNS, ends, follow, last_lines, summary
from agentproxy.admin.signeraccess import ask, signer_for
from agentproxy.admin.visible import visible
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.signer_answers import CheckpointTaken
from agentproxy.protocol.signer_requests import TakeCheckpoint
from agentproxy.runtime.filepath import FilePath
from agentproxy.signer.checkpoint import Checkpoint
from agentproxy.signer.logkey import public_key_path, read_public_key
from agentproxy.signer.record import AuditRecord
from agentproxy.signer.verifylog import Report, verify

__all__ = ["command"]


@click.group("audit")
def command() -> None:
    """Read and verify the audit log.

    The log lies in DIRECTORY; without it in $BLIND_ORACLE_AUDIT_DIR, or where the configuration says.
    """


command.add_command(query)
command.add_command(who_signed)
command.add_command(export_)
command.add_command(reconcile_)


@command.command("tail")
@directory_argument
@log_option
@click.option("-n", "number", type=click.IntRange(0), default=20, show_default=True, help="How many records.")
@click.option("--follow", "-f", "following", is_flag=True, help="Go on with new records until Ctrl-C.")
@json_option
@config_option
def tail_(  # noqa: PLR0913, PLR0917  one parameter for each option
    directory: Path | None,
    log: Path | None,
    number: int,
    following: bool,  # noqa: FBT001  a flag of the command line
    as_json: bool,  # noqa: FBT001
    config: Path,
) -> None:
    """Show the last records. What stands under "claimed" is a relay's word, and not proven."""
    place = place_of_log(directory, log, config)
    until = ends(place)
    lines = last_lines(until, number)
    if as_json or following:
        _stream(lines, as_json=as_json)
    else:
        _show(lines)
    if following:
        _stream(follow(place, until), as_json=as_json)


@command.command("verify")
@directory_argument
@log_option
@click.option(
    "--head",
    "head_files",
    type=FilePath(dir_okay=False),
    multiple=True,
    help="A saved head, such as a relay keeps: proves also that nothing was cut off or rewritten up to there.",
)
@click.option(
    "--public-key",
    "key_files",
    type=FilePath(dir_okay=False),
    multiple=True,
    help="The log's own public key, kept elsewhere: proves that its signer wrote what the signed checkpoints cover. "
    "May be repeated where the key was replaced.",
)
@click.option("--archived", is_flag=True, help="Accept that the oldest segments were moved away.")
@json_option
@config_option
@click.pass_context
def verify_(  # noqa: PLR0913, PLR0917  one parameter for each option
    context: click.Context,
    directory: Path | None,
    log: Path | None,
    head_files: tuple[Path, ...],
    key_files: tuple[Path, ...],
    archived: bool,  # noqa: FBT001  a flag of the command line
    as_json: bool,  # noqa: FBT001
    config: Path,
) -> None:
    """Check that every record is there, unchanged and in order. Exit status 1 says that the log is damaged."""
    place = place_of_log(directory, log, config)
    heads = [head for file in head_files for head in heads_of(file, place)]
    keys = [read_public_key(file) for file in key_files]
    report = verify(place, heads=heads, keys=keys, archived=archived)
    compared = sum(head.sequence >= report.first - 1 for head in heads)
    click.echo(json.dumps(_plain(report)) if as_json else _words(report, compared))
    context.exit(0 if report.damage is None else 1)


@command.command("key")
@config_option
def key_(config: Path) -> None:
    """Print the log's public key, for auditors to keep on another machine: `audit verify --public-key` takes it."""
    signer = load_signer(load_oracle(config))
    path = public_key_path(signer.audit.directory, signer.node)
    if not path.exists():
        raise ConfigError(f"{path}: there is no key yet", "the signer makes it when it starts")
    click.echo(read_public_key(path).pem.decode("ascii"), nl=False)


@command.command("checkpoint")
@config_option
def checkpoint_(config: Path) -> None:
    """Sign the log's end now, and print it: the signer does so by itself too, at least every five minutes."""
    oracle = load_oracle(config)
    with signer_for(oracle) as socket:
        taken = ask(socket, TakeCheckpoint(0))
    if not isinstance(taken, CheckpointTaken):
        raise ConfigError("the signer gave another answer than was asked for")
    click.echo(Checkpoint(taken.head, taken.time, taken.key, taken.signature).line().decode("ascii"))


def _stream(lines: Iterable[bytes], *, as_json: bool) -> None:
    for line in lines:
        # A record has no character that needs an escape; a line that is none shall not pass for one on a terminal.
        click.echo(visible(line.decode("ascii", "backslashreplace")) if as_json else _words_of(_row(line)))


def _words_of(row: tuple[str, ...]) -> str:
    """A row without columns: nothing stands above the last one to say that it is only claimed."""
    *proven, claimed = row
    return "  ".join(filter(None, [*proven, claimed and f"claimed {claimed}"]))


def _show(lines: list[bytes]) -> None:
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = NOT_A_TERMINAL
    table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
    for line in lines:
        table.add_row(*_row(line))
    console.print(table)


def _row(line: bytes) -> tuple[str, ...]:
    try:
        return summary(AuditRecord.parse(line))
    except RemoteProtocolError:
        return ("?", "", "", "", "", "", "", "not a record: blind-oracle audit verify says more", "")


def _words(report: Report, heads: int) -> str:
    notes = "".join(f"\nnote: {note}" for note in report.notes)
    if report.damage is None:
        last = f", head {report.head.sequence} {report.head.hash.hex()}" if report.head is not None else ""
        kept = f", {heads} saved head{'s' * (heads != 1)} found in it" if heads else ""
        signed = f", {report.checkpoints} checkpoints up to record {report.covered}" if report.checkpoints else ""
        return f"whole: {report.records} records in {report.segments} segments{last}{kept}{signed}{notes}"
    damage = report.damage
    where = f"{damage.path}: line {damage.line}" if damage.line else damage.path
    return (
        f"damaged, {damage.kind.value}: record {damage.sequence}: {damage.explanation}\n"
        f"  {where}\n  {report.records} records before it are whole{notes}"
    )


def _plain(report: Report) -> dict[str, object]:
    damage = report.damage
    return {
        "whole": damage is None,
        "segments": report.segments,
        "records": report.records,
        "first": report.first,
        "head": _plain_head(report.head),
        "damage": None
        if damage is None
        else {
            "kind": damage.kind.value,
            "file": damage.path,
            "line": damage.line,
            "sequence": damage.sequence,
            "explanation": damage.explanation,
        },
        "checkpoints": report.checkpoints,
        "covered": report.covered,
        "notes": list(report.notes),
    }


def _plain_head(head: Head | None) -> dict[str, object] | None:
    return None if head is None else {"node": head.node, "sequence": head.sequence, "hash": head.hash.hex()}
