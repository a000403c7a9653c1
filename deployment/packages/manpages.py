"""Man pages and shell completions, made from the same definitions that --help prints.

Source of the page's form: man-pages(7), groff_man(7).
"""

import inspect
import re
from collections.abc import Iterator

import click

from agentproxy.admin.commands.completion import script

__all__ = ["completions", "page"]

_SHELLS = ("bash", "zsh", "fish")


def page(name: str, command: click.Command, version: str, date: str) -> str:
    """The page of one program: its commands with all their options."""
    context = click.Context(command, info_name=name, **command.context_settings)
    lines = [f'.TH "{name.upper()}" 1 "{date}" "Blind Oracle {version}" "Blind Oracle"']
    lines.append(".nh")  # a path that is broken by a hyphen would be copied with it
    lines += [".SH NAME", f"{_plain(name)} \\- {_plain(_summary(command))}"]
    lines += [".SH SYNOPSIS", f".B {_plain(name)}", _plain(" ".join(command.collect_usage_pieces(context)))]
    if command.help:
        lines += [".SH DESCRIPTION", *_paragraphs(command.help)]
    lines += _options(command, context, ".SH OPTIONS")
    if isinstance(command, click.Group):
        lines += [".SH COMMANDS", *_commands(command, context)]
    if command.epilog:
        lines += [".SH EXIT STATUS", *_paragraphs(command.epilog)]
    return "\n".join(lines) + "\n"


def completions(name: str) -> dict[str, str]:
    """The script that completes `name`, for each shell."""
    return {shell: script(shell, name) + "\n" for shell in _SHELLS}


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from (f".SS {_plain(inner.command_path)}", *_paragraphs(command.help or ""))
            yield from _commands(command, inner)
            continue
        words = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
        yield from (f".SS {_plain(words)}", *_paragraphs(command.help or ""), *_options(command, inner, ""))


def _options(command: click.Command, context: click.Context, heading: str) -> list[str]:
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    lines = [heading] if heading and records else []
    for words, text in records:
        lines += [".TP", f".B {_plain(words)}", _plain(text)]
    return lines


def _summary(command: click.Command) -> str:
    return (command.get_short_help_str(200) or "").rstrip(".")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("\b"):  # click's mark for lines that stay as they are
            yield from (".nf", *(_plain(line) for line in paragraph.splitlines()[1:]), ".fi")
        else:
            yield from (".PP", _plain(" ".join(paragraph.split())))


def _plain(text: str) -> str:
    """Text that groff takes as text: no escapes, no request at a line's start, hyphens that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
