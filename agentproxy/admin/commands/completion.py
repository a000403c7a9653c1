"""`blind-oracle completion`."""

import click
from click.shell_completion import get_completion_class

__all__ = ["command", "script"]

# What click's script for fish does with a line that names a word and describes it: behind a comma in the description it
# sees a third field, which it drops.
_CUT, _WHOLE = 'string split ","', 'string split --max 1 ","'


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that makes SHELL complete our commands and options.

    \b
      bash: blind-oracle completion bash > /etc/bash_completion.d/blind-oracle
      zsh:  blind-oracle completion zsh > "${fpath[1]}/_blind-oracle"
      fish: blind-oracle completion fish > ~/.config/fish/completions/blind-oracle.fish
    """
    click.echo(script(shell, "blind-oracle"))


def script(shell: str, program: str) -> str:
    """What a shell reads to complete the commands and options of one of our programs."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"  # what click looks for
    made = get_completion_class(shell)
    if made is None:
        raise click.BadParameter(f"no completion for {shell}")
    return made(click.Group(program), {}, program, variable).source().replace(_CUT, _WHOLE)
