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
    from relay.homes import homes_file, load_homes  # noqa: PLC0415
    from relay.keychoice import choose_key, home_for  # noqa: PLC0415
    from relay.status import ControlRequest, StatusReport  # noqa: PLC0415

    relay = load_config(config or config_path())
    status = ask(relay.control_socket, ControlRequest("status"), StatusReport)
    choice = choose_key(relay.control_socket, status, distribution or relay.distribution, key_type)
    if as_json:
        home = home_for(status, load_homes(homes_file(config or config_path())), distribution)
        plain = {**asdict(choice), "fingerprint": str(choice.fingerprint), "home": home}
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        click.echo(choice.local_user)


@click.command("outcome")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@config_option
@click.option("--named", is_flag=True, help="Begin each line with its TEXT and a tab.")
def _outcome(texts: tuple[str, ...], config: Path | None, named: bool) -> int:  # noqa: FBT001  click's form
    """Say what became of the last requests of programs whose command line, or a parent's, holds TEXT.

    A line each, the oldest first: `signed KEY`, or why not. Exit status 1: there is none.
    """
    from relay.config import load_config  # noqa: PLC0415  each command only its own
    from relay.control_call import ask  # noqa: PLC0415
    from relay.keychoice import outcome_line, requests_by  # noqa: PLC0415
    from relay.status import ControlRequest, StatusReport  # noqa: PLC0415

    relay = load_config(config or config_path())
    status = ask(relay.control_socket, ControlRequest("status", _ALL), StatusReport)
    found = [(text, entry) for text in texts for entry in requests_by(status, text)]
    for text, entry in found:
        click.echo(f"{text}\t{outcome_line(entry)}" if named else outcome_line(entry))
    return 0 if found else 1


commands = (_key_for, _outcome)
