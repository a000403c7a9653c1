"""`blind-oracle attach`."""

import os
from pathlib import Path

import click

from agentproxy.admin.attaching import attach, client_address
from agentproxy.runtime.filepath import FilePath

__all__ = ["command"]


@click.command("attach")
@click.option("--runner", required=True, metavar="NAME", help="Whose ssh key has logged in.")
@click.option("--socket", "path", required=True, type=FilePath(), help="attach.socket of oracle.yaml.")
def command(runner: str, path: Path) -> None:
    """Carry a relay's stream from sshd to the oracle; the forced command of a runner's ssh key.

    `blind-oracle runner add NAME --ssh-key FILE` prints the line for authorized_keys.
    """
    attach(path, runner, client_address(os.environ))
