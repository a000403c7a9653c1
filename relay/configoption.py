"""The option that every command of `blind-oracle-relay` has."""

from pathlib import Path

import click

from relay.config import CONFIG_VARIABLE

__all__ = ["config_option"]

config_option = click.option(
    "--config", "config", type=click.Path(path_type=Path), help=f"relay.yaml; default: ${CONFIG_VARIABLE}, else /etc."
)
