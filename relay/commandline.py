"""The commands of `blind-oracle-relay` with their options; `relay.cli` prints their errors."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from agentproxy import __version__
from relay.config import config_path
from relay.configoption import config_option
from relay.fallbackcommands import fallback_group

__all__ = ["run_command"]

_DEFAULT_LAST = 10
_HELP = {"help_option_names": ["-h", "--help"]}


def run_command(words: Sequence[str]) -> int:
    """Run what `words` say; the exit status."""
    try:
        status = _group.main(list(words), "blind-oracle-relay", standalone_mode=False)
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


_group.add_command(fallback_group)


@_group.command("enroll")
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@click.option("--state", type=click.Path(path_type=Path), help="Where the relay keeps its key list.")
@click.option("--socket", type=click.Path(path_type=Path), help="Where gpg connects.")
@click.option("--ssh-config", type=click.Path(path_type=Path), help="For an oracle over ssh: the file for `ssh -F`.")
@click.option("--replace", is_flag=True, help="Give up the credentials that are here.")
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
    enrol(enrolment, places, replace=replace)
    click.echo(f"enrolled as {enrolment.runner}: {places.config}")
    click.echo(f"{file} is used up; start: blind-oracle-relay serve")


@_group.command("serve")
@config_option
def _serve(config: Path | None) -> None:
    """Serve gpg until SIGTERM."""
    from relay.daemon import run  # noqa: PLC0415

    run(config or config_path())


@_group.command("setup")
@config_option
@click.option("--home", type=click.Path(path_type=Path), help="The GnuPG home to make; default: beside relay.yaml.")
@click.option("--socket", type=click.Path(path_type=Path), help="Which socket of the relay; default: the first.")
def _setup(config: Path | None, home: Path | None, socket: Path | None) -> None:
    """Make a GnuPG home with the public keys, from which gpg and rpmsign find the relay."""
    from relay.config import load_config  # noqa: PLC0415
    from relay.control_call import ask  # noqa: PLC0415
    from relay.setup import rpm_macros, set_up  # noqa: PLC0415
    from relay.status import CertificateReport, ControlRequest  # noqa: PLC0415

    file = config or config_path()
    report = ask(load_config(file).control_socket, ControlRequest("certificates"), CertificateReport)
    done = set_up(home or places_home(file), socket or Path(report.sockets[0]), report.certificates)
    click.echo(f"{done.home}: {len(done.fingerprints)} public keys; gpg's agent is the relay ({done.agent_socket})")
    click.echo(f"\nuse it in a shell:\n  export GNUPGHOME={done.home}")
    click.echo("\nuse it with rpmsign, in ~/.rpmmacros:")
    for line in rpm_macros(done.home, done.fingerprints[0] if done.fingerprints else "KEY").splitlines():
        click.echo(f"  {line}")


def places_home(config: Path) -> Path:
    """The GnuPG home that `setup` makes when none is named."""
    from relay.enrolment import places_for  # noqa: PLC0415

    state = places_for(config).state
    return state / "gnupg" if config.is_absolute() and state.is_relative_to("/var") else config.parent / "gnupg"


@_group.command("status")
@config_option
@click.option(
    "--last", type=click.IntRange(1, 10_000), is_flag=False, flag_value=_DEFAULT_LAST, default=None,
    help="The last requests with their reasons; how many, default 10.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def _status(config: Path | None, last: int | None, as_json: bool) -> int:  # noqa: FBT001  click's form
    """Say how the running relay is: 0 connected, 1 not."""
    from agentproxy.protocol.wire import new_converter  # noqa: PLC0415
    from relay.config import load_config  # noqa: PLC0415
    from relay.control_call import ask  # noqa: PLC0415
    from relay.report import status_lines  # noqa: PLC0415
    from relay.status import ControlRequest, StatusReport  # noqa: PLC0415

    request = ControlRequest("status", last or 0)
    report = ask(load_config(config or config_path()).control_socket, request, StatusReport)
    if as_json:
        plain: object = new_converter().unstructure(report)
        click.echo(json.dumps(plain, indent=2))
    else:
        for line in status_lines(report):
            click.echo(line)
    return 0 if report.connection.connected else 1
