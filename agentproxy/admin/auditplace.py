"""Which audit log a command reads, and the options that all of them share."""

from pathlib import Path

import click

from agentproxy.admin.layout import load_oracle, load_signer

__all__ = ["configured", "directory_argument", "directory_option", "json_option"]

DIRECTORY_VARIABLE = "BLIND_ORACLE_AUDIT_DIR"

_type = click.Path(path_type=Path, file_okay=False)
directory_argument = click.argument("directory", type=_type, required=False, envvar=DIRECTORY_VARIABLE)
# Where the arguments are something else.
directory_option = click.option(
    "--log", "directory", type=_type, envvar=DIRECTORY_VARIABLE, show_envvar=True, help="The audit log's directory."
)
json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")


def configured(config: Path) -> Path:
    """The audit log of the configured signer.

    Raises:
        ConfigError: the configuration is missing, wrong, or not for us to read.
    """
    return load_signer(load_oracle(config)).audit.directory
