"""`blind-oracle backup`."""

from pathlib import Path

import click

from agentproxy.admin.backup import Backup
from agentproxy.admin.layout import config_option, load_oracle, load_signer
from agentproxy.runtime.filepath import FilePath
from agentproxy.signer.logkey import read_public_key

__all__ = ["command"]

_DIRECTORY = click.argument("directory", type=FilePath(file_okay=False))


@click.group("backup")
def command() -> None:
    """Copy audit log, registry and configuration while the oracle runs, and see whether one could start from them."""


@command.command("take")
@_DIRECTORY
@config_option
def take_(directory: Path, config: Path) -> None:
    """Add to the copy in DIRECTORY, made when it is not there, what has come since the last time.

    Secret keys, passphrases and the key of the CA are not in it: keep those offline. A log that does not continue the
    copy is an error, and nothing is copied over.
    """
    oracle = load_oracle(config)
    copied = Backup(directory).take(oracle, config, load_signer(oracle))
    click.echo(f"{directory}: {copied.log_bytes} bytes of the audit log added")
    if not copied.registry:
        click.echo("the registry is in PostgreSQL: pg_dump copies it, and must run before this")


@command.command("check")
@_DIRECTORY
@click.option(
    "--public-key",
    "key_files",
    type=FilePath(dir_okay=False),
    multiple=True,
    help="The log's own public key, kept elsewhere. May be repeated where the key was replaced.",
)
def check_(directory: Path, key_files: tuple[Path, ...]) -> None:
    """See whether an oracle could start from the copy in DIRECTORY; changes nothing."""
    drill = Backup(directory).drill(tuple(map(read_public_key, key_files)))
    end = "nothing" if drill.head is None else f"record {drill.head.sequence} of {drill.head.node}"
    click.echo(f"{directory}: {drill.records} records in order, up to {end}")
    if key_files:
        click.echo(f"signed checkpoints cover it up to record {drill.covered}")
    if drill.runners is None:
        click.echo("no registry in this copy: put back PostgreSQL's own")
    else:
        click.echo(f"{drill.runners} build servers; {drill.behind} records of the log are newer than the registry")
