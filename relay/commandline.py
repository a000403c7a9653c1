"""The commands of `blind-oracle-relay` with their options; `relay.cli` prints their errors."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from agentproxy import __version__
from agentproxy.runtime.filepath import FilePath
from relay.config import config_path
from relay.configoption import config_option
from relay.doctorcommand import doctor
from relay.fallbackcommands import fallback_group
from relay.signingcommands import commands as signing_commands
from relay.starting import how_to_start

__all__ = ["run_command"]

_DEFAULT_LAST = 10
_HELP = {"help_option_names": ["-h", "--help"]}


def run_command(words: Sequence[str]) -> int:
    """Run what `words` say; the exit status."""
    try:
        status = _group.main(list(words), "blind-oracle-relay", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # a group's help, which is no error's words
        return 2
    except click.ClickException as error:
        click.echo(f"blind-oracle-relay: error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"blind-oracle-relay: hint: {error.ctx.command_path} --help", err=True)
        return 2 if isinstance(error, click.UsageError) else 1
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0


@click.group(context_settings=_HELP)
@click.version_option(__version__, "-V", "--version", prog_name="blind-oracle-relay")
def _group() -> None:
    """Let gpg on this build server sign with keys that only the oracle has."""


for _command in (*signing_commands, doctor, fallback_group):
    _group.add_command(_command)


@_group.command("enroll")
@click.argument("file", type=FilePath())
@config_option
@click.option("--state", type=FilePath(), help="Where the relay keeps its key list.")
@click.option("--socket", type=FilePath(), help="Where gpg connects.")
@click.option("--ssh-config", type=FilePath(), help="For an oracle over ssh: the file for `ssh -F`.")
@click.option("--replace", is_flag=True, help="Give up the credentials that are here; relay.yaml is kept beside.")
def _enroll(  # noqa: PLR0913, PLR0917  a command's options
    file: Path,
    config: Path | None,
    state: Path | None,
    socket: Path | None,
    ssh_config: Path | None,
    replace: bool,  # noqa: FBT001  a flag of the command line
) -> None:
    """Enrol with FILE, which `blind-oracle runner add` wrote: it works once and for a day, with a running oracle."""
    from relay.enrolment import Places, enrol, places_for, read_enrolment  # noqa: PLC0415  each command only its own

    usual = places_for(config or config_path())
    places = Places(usual.config, state or usual.state, socket or usual.socket)
    enrolment = read_enrolment(file).over(ssh_config)
    kept = enrol(enrolment, places, replace=replace)
    click.echo(f"enrolled as {enrolment.runner}: {click.format_filename(places.config)}")
    if kept is not None:
        click.echo(f"what that was is in {click.format_filename(kept)}: take over what you had set there yourself")
    click.echo(f"{click.format_filename(file)} is used up; start: {how_to_start(places.state)}")


@_group.command("serve")
@config_option
def _serve(config: Path | None) -> None:
    """Serve gpg until SIGTERM."""
    from relay.daemon import run  # noqa: PLC0415

    run(config or config_path())


@_group.command("setup")
@config_option
@click.option(
    "--home", "homes", type=FilePath(), multiple=True,
    help="The GnuPG home to make; may be repeated. Default: beside relay.yaml.",
)  # fmt: skip
@click.option("--socket", type=FilePath(), help="Which socket of the relay; default: the first.")
@click.option("--shared", is_flag=True, help="For all users of the host, who can read the home and not write it.")
@click.option("--cert-store", "store", type=FilePath(), help="Fill this certificate store of sq, too.")
def _setup(config: Path | None, homes: tuple[Path, ...], socket: Path | None, shared: bool, store: Path | None) -> None:  # noqa: FBT001  click's form
    """Make GnuPG homes with the public keys, from which gpg and rpmsign find the relay, or mend them.

    Root works in each home as its owner (as that of the directory above, while there is no home).
    """
    from relay.homekeeping import make_homes  # noqa: PLC0415  each command only its own

    make_homes(config or config_path(), homes, socket, store, shared=shared)


@_group.command("keyrings")
@config_option
def _keyrings(config: Path | None) -> int:
    """Bring what is new of the oracle's public keys to every home that `setup` made, and mend those homes.

    For root, whenever the relay's key list changes, and once a day. Exit status: 0 done everywhere, 1 not.
    """
    from relay.homekeeping import update_homes  # noqa: PLC0415  each command only its own

    return update_homes(config or config_path())


@_group.command("status")
@config_option
@click.option(
    "--last", type=click.IntRange(1, 10_000), is_flag=False, flag_value=_DEFAULT_LAST, default=None,
    help="The last requests with their reasons; how many, default 10.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def _status(config: Path | None, last: int | None, as_json: bool) -> int:  # noqa: FBT001  click's form
    """Say how the running relay is: 0 connected, 1 not."""
    from agentproxy.protocol.unstructure import unstructured  # noqa: PLC0415
    from relay.config import load_config  # noqa: PLC0415
    from relay.control_call import ask  # noqa: PLC0415
    from relay.report import status_lines  # noqa: PLC0415
    from relay.status import ControlRequest, StatusReport  # noqa: PLC0415

    request = ControlRequest("status", last or 0)
    report = ask(load_config(config or config_path()).control_socket, request, StatusReport)
    if as_json:
        plain = unstructured(report)
        click.echo(json.dumps(plain, indent=2))
    else:
        for line in status_lines(report):
            click.echo(line)
    return 0 if report.connection.connected else 1
