"""The man pages of the packages, as groff shows them."""

import re
import subprocess
from collections.abc import Iterator

import click
import pytest

from agentproxy.admin.cli import _COMMANDS
from agentproxy.admin.cli import _group as oracle_group
from deployment.packages.manpages import page
from relay.commandline import _group as relay_group
from relay.sealed.commandline import _group as client_group

PROGRAMS = {
    "blind-oracle": oracle_group(list(_COMMANDS)),
    "blind-oracle-relay": relay_group,
    "blind-oracle-sign": client_group,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_page_has_each_option_of_each_command(name: str) -> None:
    sections = re.split(r"^ {3}(?=\S)", _shown(name), flags=re.MULTILINE)

    for path, command in _commands(PROGRAMS[name], name):
        if isinstance(command, click.Group):
            continue
        (section,) = (text for text in sections if text.startswith(f"{path} ["))
        options = [option for each in command.params if isinstance(each, click.Option) for option in each.opts]
        assert [option for option in (*options, "-h, --help") if f" {option}" not in section] == [], path


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_page_says_what_a_group_of_commands_is_for(name: str) -> None:
    shown = " ".join(_shown(name).split())

    for _path, command in _commands(PROGRAMS[name], name):
        first, *_more = (command.help or "").split("\n\n")
        assert " ".join(first.split()) in shown


def test_the_lines_of_an_example_stay_lines() -> None:
    lines = [line.strip() for line in _shown("blind-oracle").splitlines()]

    assert "bash: blind-oracle completion bash > /etc/bash_completion.d/blind-oracle" in lines
    assert 'eval "$(blind-oracle dev env DIR)"' in lines


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_path_is_not_broken_by_a_hyphen(name: str) -> None:
    assert "\N{HYPHEN}\n" not in _shown(name)


def _shown(name: str) -> str:
    text = page(name, PROGRAMS[name], "0.1.0", "2026-01-01")
    groff = ["groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-P-cbou"]
    done = subprocess.run(groff, input=text, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _commands(each, f"{path} {name}")
