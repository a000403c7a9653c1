"""`blind-oracle certificate`."""

from pathlib import Path

import click

from agentproxy.admin.layout import config_option, load_oracle
from agentproxy.admin.servercertificate import hosts_of, renew

__all__ = ["command"]


@click.group("certificate")
def command() -> None:
    """The oracle's own TLS certificate."""


@command.command("renew")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="A name or address that build servers dial. May be repeated. [default: as now]",
)
@click.option("--days", type=click.IntRange(1, 3660), default=730, show_default=True, help="How long it lasts.")
@config_option
def renew_(hosts: tuple[str, ...], days: int, config: Path) -> None:
    """Replace the oracle's TLS key and certificate by new ones from the built-in CA.

    A running oracle takes them at a reload; connections that are open stay. One whose key systemd hands over, as with
    our packages, needs a restart.
    """
    oracle = load_oracle(config)
    names = hosts or hosts_of(oracle.tls.certificate)
    expires = renew(oracle, names, days)
    click.echo(f"{oracle.tls.certificate}: for {', '.join(names)}, expires {expires:%Y-%m-%d}")
    click.echo("a running oracle takes it: blind-oracle reload; where systemd hands it the key: restart it")
