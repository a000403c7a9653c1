"""`blind-oracle audit export`."""

import sys
from pathlib import Path

import click

from agentproxy.admin.auditexport import export, format_token, parse_token
from agentproxy.admin.auditplace import directory_argument, log_option, place_of_log
from agentproxy.admin.layout import config_option
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.filepath import FilePath
from agentproxy.runtime.files import write_atomically
from agentproxy.signer.segment import ChainEnd

__all__ = ["export_"]


@click.command("export")
@directory_argument
@log_option
@click.option("--after", help="Begin behind this record: SEQUENCE, or SEQUENCE:HASH if it must be that one.")
@click.option("--limit", type=click.IntRange(1), help="At most so many records.")
@click.option(
    "--position",
    type=FilePath(dir_okay=False),
    help="A file that keeps SEQUENCE:HASH of the last exported record: begin behind it, and write it when all is out.",
)
@config_option
def export_(  # noqa: PLR0913, PLR0917  one parameter for each option
    directory: Path | None,
    log: Path | None,
    after: str | None,
    limit: int | None,
    position: Path | None,
    config: Path,
) -> None:
    """Write records as they stand in the log, one a line, for shipping to another place.

    Exports that follow each other, put one behind the other, are the log itself.
    """
    kept = position if position is not None and position.exists() else None
    if after is not None and kept is not None:
        raise ConfigError(f"{kept}: it says where to begin, and so does --after", "leave one of the two out")
    sequence, hash_ = parse_token(after or "0") if kept is None else _kept(kept)
    end: ChainEnd | None = None
    for line, place in export(place_of_log(directory, log, config), sequence, hash_, limit):
        click.echo(line.decode("ascii"))
        end = place
    if position is not None and end is not None:
        _keep(position, end)


def _kept(path: Path) -> tuple[int, bytes | None]:
    try:
        return parse_token(path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except ConfigError as error:
        hint = "the last record that arrived stands in it as SEQUENCE:HASH; write its SEQUENCE there, or 0 for all"
        raise ConfigError(f"{path}: {error}", hint) from error


def _keep(path: Path, end: ChainEnd) -> None:
    sys.stdout.flush()  # what is not out must be exported again
    try:
        write_atomically(path, f"{format_token(end)}\n".encode("ascii"), 0o644)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
