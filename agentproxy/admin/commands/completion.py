"""`blind-oracle completion`."""

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

_VARIABLE = "_BLIND_ORACLE_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that makes SHELL complete our commands and options.

    \b
      bash: blind-oracle completion bash > /etc/bash_completion.d/blind-oracle
      zsh:  blind-oracle completion zsh > "${fpath[1]}/_blind-oracle"
      fish: blind-oracle completion fish > ~/.config/fish/completions/blind-oracle.fish
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.BadParameter(f"no completion for {shell}")
    click.echo(made(click.Group("blind-oracle"), {}, "blind-oracle", _VARIABLE).source())
