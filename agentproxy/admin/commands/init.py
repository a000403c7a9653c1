"""`blind-oracle init`."""

import shlex
from pathlib import Path

import click

from agentproxy.admin.layout import CONFIG_VARIABLE
from agentproxy.admin.statedirectory import Wanted, create, own_hosts, own_node
from agentproxy.signer.logkey import public_key_path

__all__ = ["command"]


@click.command("init")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="A name or address that build servers dial; the first goes into enrolment files. May be repeated. "
    "[default: localhost and this machine's name]",
)
@click.option("--listen", default="127.0.0.1:7443", show_default=True, help="Where the oracle listens: host:port.")
@click.option("--node", help="This oracle's name in the audit log. [default: this machine's name]")
@click.option(
    "--registry-database",
    metavar="WORDS",
    help="A PostgreSQL database, in libpq's words without a password, for a registry that several oracles share: "
    '"host=db.example.org dbname=oracle sslmode=verify-full". [default: a SQLite file in DIRECTORY]',
)
def command(
    directory: Path, hosts: tuple[str, ...], listen: str, node: str | None, registry_database: str | None
) -> None:
    """Make the state directory DIRECTORY of a new oracle: CA, server certificate, configuration, example policy.

    DIRECTORY must be empty or not exist. Everything in it is readable by you alone.
    """
    layout = create(directory, Wanted(node or own_node(), hosts or own_hosts(), listen, registry_database))
    click.echo(f"made {directory}: a CA, a server certificate, an empty policy and an audit log")
    public = public_key_path(layout.audit, node or own_node())
    click.echo(f"the audit log's public key, for auditors to keep on another machine: {public}")
    click.echo(public.read_text(), nl=False)
    click.echo("next:")
    click.echo(f"  export {CONFIG_VARIABLE}={shlex.quote(str(layout.oracle_config.absolute()))}")
    click.echo("  blind-oracle key import EXPORTED_SUBKEY --name modern --policy-add")
    click.echo("  blind-oracle runner add build-01 --key modern --policy-add")
    click.echo("  blind-oracle serve")
