"""`blind-oracle audit who-signed`."""

import json
from pathlib import Path

import click

from agentproxy.admin.auditindex import AuditIndex
from agentproxy.admin.auditorigin import Origin, origin_of
from agentproxy.admin.auditplace import cache_option, configured, directory_option, json_option
from agentproxy.admin.layout import config_option
from agentproxy.admin.signedfiles import signatures_of
from agentproxy.admin.visible import valid, visible
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.filepath import FilePath
from agentproxy.signer.record import Entry
from agentproxy.signer.segment import list_segments

__all__ = ["key_words", "plain_origin", "tell_archived", "who_signed"]


@click.command("who-signed")
@click.argument("files", nargs=-1, required=True, type=FilePath(dir_okay=False))
@directory_option
@json_option
@cache_option
@config_option
@click.pass_context
def who_signed(  # noqa: PLR0913, PLR0917  one parameter for each option
    context: click.Context,
    files: tuple[Path, ...],
    directory: Path | None,
    as_json: bool,  # noqa: FBT001  a flag of the command line
    cache: Path,
    config: Path,
) -> None:
    """Name the record of each signature in FILES, or say that this oracle never made it.

    A FILE is an RPM, a detached signature (NAME.asc or NAME.sig, with NAME beside it) such as repomd.xml.asc, or a file
    with one beside it. A signature that a build server made with its own key while no oracle could (fallback) is named
    as that. Exit status 1 says that a signature is neither, that there is none, or that a file could not be read.
    """
    place, good = directory or configured(config), True
    with AuditIndex.open(place, cache) as index:
        for file in files:
            try:
                origins = [origin_of(signature, index) for signature in signatures_of(file)]
            except ConfigError as error:
                good = False  # one file of many, of which the others are asked as well
                _tell_trouble(file, error, as_json=as_json)
                continue
            good = good and bool(origins) and all(origin.is_accounted for origin in origins)
            _tell(file, origins, as_json=as_json)
    tell_archived(place)
    context.exit(0 if good else 1)


def _tell(file: Path, origins: list[Origin], *, as_json: bool) -> None:
    if as_json:
        shown = [plain_origin(origin) for origin in origins]
        click.echo(json.dumps({"file": valid(str(file)), "signatures": shown}))
    elif not origins:
        click.echo(visible(f"{file}: not signed"))
    else:
        for origin in origins:
            click.echo(visible(f"{file}: {origin.signature.what}: {origin.words}{_record(origin)}"))


def _tell_trouble(file: Path, error: ConfigError, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"file": valid(str(file)), "error": valid(str(error))}))
    else:
        click.echo(visible(f"blind-oracle: error: {error}"), err=True)


def _record(origin: Origin) -> str:
    if origin.found is None:
        return "" if origin.signature.intact else "; the file is not what was signed"
    record = origin.found.record
    entry = record.entry
    by = f", for {entry.asserted.runner}" if entry.asserted.runner else ""
    return f", record {record.sequence} at {record.time:%Y-%m-%d %H:%M:%S} UTC with key {key_words(entry)}{by}"


def key_words(entry: Entry) -> str:
    """A key's name; a build server's own key has none here, and shows its fingerprint."""
    return entry.key or entry.details.get("fingerprint", "-")


def plain_origin(origin: Origin) -> dict[str, object]:
    """For machines."""
    signature = origin.signature
    return {
        "what": valid(signature.what),
        "verdict": origin.verdict.value,
        "hash_algorithm": signature.digest.algorithm.name.lower(),
        "digest": signature.digest.value.hex(),
        "signature_sha256": signature.signature_sha256.hex(),
        "record": None if origin.found is None else json.loads(origin.found.line),
    }


def tell_archived(directory: Path) -> None:
    """Say which records were not looked at, since their segments are elsewhere."""
    first = min((segment.first for segment in list_segments(directory)), default=1)
    if first > 1:
        click.echo(f"blind-oracle: note: records 1 to {first - 1} are not in {directory}: archived?", err=True)
