"""Which audit log a command reads, and the options that all of them share."""

from pathlib import Path

import click
from click.core import ParameterSource

from agentproxy.admin.layout import load_oracle, load_signer
from agentproxy.runtime.filepath import FilePath

__all__ = [
    "NOT_A_TERMINAL",
    "cache_option",
    "configured",
    "directory_argument",
    "directory_option",
    "json_option",
    "log_option",
    "place_of_log",
]

DIRECTORY_VARIABLE = "BLIND_ORACLE_AUDIT_DIR"
NOT_A_TERMINAL = 240  # columns, so that a file or a pipe gets whole lines

_type = FilePath(file_okay=False)
directory_argument = click.argument("directory", type=_type, required=False, envvar=DIRECTORY_VARIABLE)
# The same, for whoever is used to the commands whose arguments are something else.
log_option = click.option("--log", type=_type, help="Another way to name DIRECTORY.")
# Where the arguments are something else.
directory_option = click.option(
    "--log", "directory", type=_type, envvar=DIRECTORY_VARIABLE, show_envvar=True, help="The audit log's directory."
)


def _usual_cache() -> Path:
    try:
        return Path.home() / ".cache" / "blind-oracle"
    except RuntimeError as error:  # no HOME, and a user id of no account, as in a container
        raise click.UsageError("--cache is needed: there is no home directory") from error


cache_option = click.option(
    "--cache",
    type=_type,
    envvar="BLIND_ORACLE_CACHE",
    show_envvar=True,
    default=_usual_cache,
    show_default="~/.cache/blind-oracle",
    help="Where the index of the log may lie.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")


def configured(config: Path) -> Path:
    """The audit log of the configured signer.

    Raises:
        ConfigError: the configuration is missing, wrong, or not for us to read.
    """
    return load_signer(load_oracle(config)).audit.directory


def place_of_log(directory: Path | None, log: Path | None, config: Path) -> Path:
    """The audit log that was named by DIRECTORY or by `--log`, or else the configured one.

    Raises:
        UsageError: both were given.
        ConfigError: the configuration is needed, and missing, wrong, or not for us to read.
    """
    context = click.get_current_context()
    if log is not None and context.get_parameter_source("directory") is ParameterSource.COMMANDLINE:
        raise click.UsageError("DIRECTORY and --log both name the log: leave one out", context)
    return log or directory or configured(config)
