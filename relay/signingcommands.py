"""What build scripts ask a relay: `key-for` and `outcome`."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from relay.config import config_path
from relay.configoption import config_option

__all__ = ["commands"]

_ALL = 10_000  # requests; the relay keeps at most so many


@click.command("key-for")
@click.argument("distribution", required=False)
@config_option
@click.option("--type", "key_type", help="Only a key of this type, such as modern or legacy.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def _key_for(distribution: str | None, config: Path | None, key_type: str | None, as_json: bool) -> None:  # noqa: FBT001  click's form
    """Print what to give gpg as --local-user for DISTRIBUTION, such as el10-x86_64.

    Without DISTRIBUTION that of relay.yaml counts, and without one there the only key that this runner may use.
    """
    from relay.config import load_config  # noqa: PLC0415  each command only its own
    from relay.control_call import ask  # noqa: PLC0415
    from relay.keychoice import choose_key  # noqa: PLC0415
    from relay.status import ControlRequest, StatusReport  # noqa: PLC0415

    relay = load_config(config or config_path())
    status = ask(relay.control_socket, ControlRequest("status"), StatusReport)
    choice = choose_key(relay.control_socket, status, distribution or relay.distribution, key_type)
    if as_json:
        click.echo(json.dumps({**asdict(choice), "fingerprint": str(choice.fingerprint)}, indent=2))
    else:
        click.echo(choice.local_user)


@click.command("outcome")
@click.argument("text")
@config_option
def _outcome(text: str, config: Path | None) -> int:
    """Say what became of the last requests of programs whose command line, or a parent's, holds TEXT.

    A line each, the oldest first: `signed KEY`, or why not. Exit status 1: there is none.
    """
    from relay.config import load_config  # noqa: PLC0415  each command only its own
    from relay.control_call import ask  # noqa: PLC0415
    from relay.keychoice import outcome_line, requests_by  # noqa: PLC0415
    from relay.status import ControlRequest, StatusReport  # noqa: PLC0415

    relay = load_config(config or config_path())
    found = requests_by(ask(relay.control_socket, ControlRequest("status", _ALL), StatusReport), text)
    for entry in found:
        click.echo(outcome_line(entry))
    return 0 if found else 1


commands = (_key_for, _outcome)
