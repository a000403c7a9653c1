"""`blind-oracle audit reconcile`."""

import json
from pathlib import Path

import click

from agentproxy.admin.auditindex import AuditIndex, Found
from agentproxy.admin.auditplace import cache_option, configured, directory_option, json_option
from agentproxy.admin.auditquery import Query, parse_moment
from agentproxy.admin.auditreconcile import Reconciliation, reconcile
from agentproxy.admin.commands.auditfiles import key_words, plain_origin, tell_archived
from agentproxy.admin.layout import config_option
from agentproxy.admin.visible import valid, visible
from agentproxy.runtime.filepath import FilePath

__all__ = ["reconcile_"]


@click.command("reconcile")
@click.argument("tree", metavar="DIR", type=FilePath(file_okay=False, exists=True))
@directory_option
@click.option("--key", help="Of the log, only signatures of this key must be in DIR.")
@click.option("--since", help="Of the log, only signatures from this date or time on.")
@click.option("--until", help="Of the log, only signatures before this date or time.")
@json_option
@cache_option
@config_option
@click.pass_context
def reconcile_(  # noqa: PLR0913, PLR0917  one parameter for each option
    context: click.Context,
    tree: Path,
    directory: Path | None,
    key: str | None,
    since: str | None,
    until: str | None,
    as_json: bool,  # noqa: FBT001  a flag of the command line
    cache: Path,
    config: Path,
) -> None:
    """Compare the RPMs and signatures below DIR with the log, in both directions.

    It names files whose signatures this oracle never made, and records whose signatures no file has: a package that was
    signed again, or never published. Exit status 1 says that there are differences.
    """
    query = Query(
        key=key,
        since=None if since is None else parse_moment(since),
        until=None if until is None else parse_moment(until),
        made=True,
    )
    place = directory or configured(config)
    with AuditIndex.open(place, cache) as index:
        result = reconcile(tree, index, query)
        # Of a mistyped name no record is missing, either; it may also be a key that has signed nothing yet.
        is_known = key is None or next(index.find(Query(key=key)), None) is not None
    click.echo(json.dumps(_plain(result)) if as_json else _words(result))
    if not is_known:
        click.echo(f"blind-oracle: note: no record of this log is of a key {key!r}", err=True)
    tell_archived(place)
    context.exit(0 if result.fits else 1)


def _words(result: Reconciliation) -> str:
    lines = [
        *(f"{origin.signature.file}: {origin.signature.what}: {origin.words}" for origin in result.foreign),
        *(f"{path}: not signed" for path in result.unsigned),
        *result.unreadable,
        *(_missing(found) for found in result.missing),
        _sum(result),
    ]
    return "\n".join(map(visible, lines))


def _sum(result: Reconciliation) -> str:
    own = f"{result.fallback} by build servers' own keys (fallback), " if result.fallback else ""
    return (
        f"{result.files} files, {result.made} signatures of this oracle, {own}{len(result.foreign)} that are not; "
        f"{len(result.unsigned)} files without, {len(result.unreadable)} that cannot be read; "
        f"{len(result.missing)} records whose signatures no file has"
    )


def _missing(found: Found) -> str:
    record, asserted = found.record, found.record.entry.asserted
    claims = asserted.claims
    claimed = "" if claims is None else claims.package or claims.file or ""
    about = f", claimed {claimed}" if claimed else ""
    key = key_words(record.entry)
    return f"record {record.sequence}: signed with key {key} for {asserted.runner}{about}: no file has it"


def _plain(result: Reconciliation) -> dict[str, object]:
    return {
        "fits": result.fits,
        "files": result.files,
        "made": result.made,
        "fallback": result.fallback,
        "foreign": [{"file": valid(str(each.signature.file)), **plain_origin(each)} for each in result.foreign],
        "unsigned": [valid(str(path)) for path in result.unsigned],
        "unreadable": list(map(valid, result.unreadable)),
        "missing": [json.loads(found.line) for found in result.missing],
    }
