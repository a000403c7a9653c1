"""`blind-oracle serve`."""

from pathlib import Path

import click

from agentproxy.admin.layout import config_option, load_oracle
from agentproxy.oracle import daemon

__all__ = ["command"]

_LEVELS = click.Choice(["debug", "info", "warning", "error"])


@click.command("serve")
@click.option("--log-level", type=_LEVELS, default="info", show_default=True)
@config_option
def command(log_level: str, config: Path) -> None:
    """Run the oracle until SIGTERM or Ctrl-C; `blind-oracle reload` makes it read the policy again.

    When the configuration names a signer.yaml, the signer is started, too, under the same user: then there is no
    isolation between the two, and who takes over the oracle has the keys. On a real host systemd runs them as two
    users.
    """
    load_oracle(config)  # with a hint for somebody who has no configuration yet
    daemon.run(config, log_level.upper())
