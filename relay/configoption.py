"""The option that every command of `blind-oracle-relay` has."""

import click

from agentproxy.runtime.filepath import FilePath
from relay.config import CONFIG_VARIABLE

__all__ = ["config_option"]

config_option = click.option(
    "--config", "config", type=FilePath(), help=f"relay.yaml; default: ${CONFIG_VARIABLE}, else /etc."
)
