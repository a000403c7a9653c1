"""`blind-oracle reload`."""

import signal
from pathlib import Path

import click

from agentproxy.admin.layout import config_option, load_oracle
from agentproxy.runtime.lockfile import signal_holder

__all__ = ["command"]


@click.command("reload")
@config_option
def command(config: Path) -> None:
    """Let the oracle that runs here read policy.yaml and its TLS certificate again, each whole or not at all.

    A signer that it has started takes keys.yaml, too. The same as SIGHUP, or `systemctl reload blind-oracle`, also for
    an oracle that no systemd runs.
    """
    oracle = load_oracle(config)
    pid = signal_holder(oracle.lock_file, signal.SIGHUP, "oracle")
    click.echo(f"told the oracle, pid {pid}; its log says what it took")
    if not oracle.signer.is_child:
        click.echo("its signer runs by itself and takes new keys by: systemctl reload blind-oracle-signer")
