"""`blind-oracle init`."""

import os
import shlex
from pathlib import Path

import click

from agentproxy.admin.layout import CONFIG_VARIABLE, DEFAULT_CONFIG, Layout, SystemLayout
from agentproxy.admin.statedirectory import Wanted, create, create_system, own_hosts, own_node
from agentproxy.oracle.config import ListenAddress
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.filepath import FilePath
from agentproxy.signer.logkey import public_key_path

__all__ = ["command"]

_LOOPBACK = "127.0.0.1:7443"
_EVERYWHERE = "[::]:7443"  # what blind-oracle.socket says, too


@click.command("init")
@click.argument("directory", type=FilePath(), required=False)
@click.option("--system", is_flag=True, help="For the units of systemd, in /etc and /var/lib, with a user for each.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="A name or address that build servers dial; the first goes into enrolment files. May be repeated. "
    "[default: localhost and this machine's name]",
)
@click.option(
    "--listen",
    help=f"Where the oracle listens: host:port. [default: {_EVERYWHERE}, or {_LOOPBACK} where no --host names anything "
    "but loopback; with --system always the first]",
)
@click.option("--node", help="This oracle's name in the audit log. [default: this machine's name]")
@click.option(
    "--registry-database",
    metavar="WORDS",
    help="A PostgreSQL database, in libpq's words without a password, for a registry that several oracles share: "
    '"host=db.example.org dbname=oracle sslmode=verify-full". [default: a SQLite file]',
)
@click.option(
    "--authority",
    type=FilePath(exists=True, file_okay=False),
    metavar="DIRECTORY",
    help="Where copies of another oracle's authority.key and authority.crt lie: build servers then trust both. "
    "[default: a new CA]",
)
@click.option(
    "--other-oracle",
    "other_oracles",
    multiple=True,
    metavar="HOST:PORT",
    help="Another oracle with the same CA and registry, for enrolment files. May be repeated.",
)
def command(  # noqa: PLR0913, PLR0917  one parameter for each option
    directory: Path | None,
    system: bool,  # noqa: FBT001  a flag of the command line
    hosts: tuple[str, ...],
    listen: str | None,
    node: str | None,
    registry_database: str | None,
    authority: Path | None,
    other_oracles: tuple[str, ...],
) -> None:
    """Make the state directory DIRECTORY of a new oracle: CA, server certificate, configuration, example policy.

    DIRECTORY must be empty or not exist. Everything in it is readable by you alone. With --system there is no
    DIRECTORY: root makes the files that the units of systemd name, and signer and oracle are two users.
    """
    if system == (directory is not None):
        raise click.UsageError("expected DIRECTORY or --system")
    chosen = node or own_node()
    is_dialled = system or not all(ListenAddress(host, 0).is_loopback for host in hosts)
    wanted = Wanted(
        chosen,
        hosts or own_hosts(),
        listen or (_EVERYWHERE if is_dialled else _LOOPBACK),
        registry_database,
        authority=authority,
        other_oracles=other_oracles,
    )
    if directory is not None:
        layout = create(directory, wanted)
        click.echo(f"made {directory}: {_ca(wanted)}, a server certificate, an empty policy and an audit log")
        _tell_key(layout, chosen)
        _tell_next(layout)
        return
    if os.geteuid() != 0:
        raise ConfigError("--system: only root can make files for other users", "sudo blind-oracle init --system")
    places = SystemLayout()
    create_system(places, wanted)
    click.echo(
        f"made {places.etc} and its parts: {_ca(wanted)}, a server certificate, an empty policy and an audit log"
    )
    _tell_key(places, chosen)
    _tell_next(places)


def _ca(wanted: Wanted) -> str:
    return "a CA" if wanted.authority is None else "a copy of the CA"


def _tell_key(layout: Layout | SystemLayout, node: str) -> None:
    public = public_key_path(layout.audit, node)
    click.echo(f"the audit log's public key, for auditors to keep on another machine: {public}")
    click.echo(public.read_text(), nl=False)


def _tell_next(layout: Layout | SystemLayout) -> None:
    click.echo("next:")
    if layout.oracle_config != DEFAULT_CONFIG:
        click.echo(f"  export {CONFIG_VARIABLE}={shlex.quote(str(layout.oracle_config.absolute()))}")
    click.echo("  blind-oracle key import EXPORTED_SUBKEY --name modern --policy-add")
    click.echo("  blind-oracle runner add build-01 --key modern --policy-add")
    if isinstance(layout, Layout):
        click.echo("  blind-oracle serve")
    else:
        click.echo("  systemctl enable --now blind-oracle-signer.socket blind-oracle.socket blind-oracle.service")
