"""What `setup` and `keyrings` do: make GnuPG homes and keep them in step with the oracle."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from agentproxy.protocol.errors import ConfigError
from relay.config import load_config
from relay.control_call import ask
from relay.enrolment import places_for
from relay.homes import Homes, KeptHome, homes_file, load_homes, with_home, with_store, write_homes
from relay.keyrings import fill_store, keep_in_step
from relay.owner import as_owner_of
from relay.setup import rpm_macros, set_up
from relay.status import CertificateReport, ControlRequest

__all__ = ["make_homes", "update_homes"]


def make_homes(file: Path, homes: Sequence[Path], socket: Path | None, store: Path | None, *, shared: bool) -> None:
    """Make or mend GnuPG homes, and say how to use them.

    Args:
        file: relay.yaml.
        homes: none: the usual one beside `file`.
        socket: which of the relay's; None: the first.
        store: a certificate store of Sequoia's to fill, too.
        shared: see `relay.setup.set_up`.

    Raises:
        ConfigError: with a reason and a hint.
    """
    report = ask(load_config(file).control_socket, ControlRequest("certificates"), CertificateReport)
    target = (socket or Path(report.sockets[0])).absolute()
    kept = load_homes(homes_file(file))
    for home in [one.absolute() for one in homes] or [usual_home(file).absolute()]:
        click.echo(as_owner_of(home, partial(_made, home, target, report.certificates, shared=shared)))
        kept = with_home(kept, KeptHome(home, target, shared))
    if store is not None:
        absolute = store.absolute()
        as_owner_of(absolute, partial(fill_store, absolute, report.certificates))
        click.echo(f"{absolute}: filled for sq")
        kept = with_store(kept, absolute)
    _remember(file, kept)


def _made(home: Path, socket: Path, certificates: Sequence[bytes], *, shared: bool) -> str:
    done = set_up(home, socket, certificates, shared=shared)
    macros = rpm_macros(home, done.fingerprints[0] if done.fingerprints else "KEY")
    return "\n".join(
        [
            f"{home}: {len(done.fingerprints)} public keys; gpg's agent is the relay ({done.agent_socket})",
            f"\nuse it in a shell:\n  export GNUPGHOME={shlex.quote(str(home))}",
            "\nuse it with rpmsign, in ~/.rpmmacros:",
            *(f"  {line}" for line in macros.splitlines()),
        ]
    )


def usual_home(config: Path) -> Path:
    """The GnuPG home that `setup` makes when none is named."""
    state = places_for(config).state
    return state / "gnupg" if config.is_absolute() and state.is_relative_to("/var") else config.parent / "gnupg"


def _remember(file: Path, kept: Homes) -> None:
    try:
        write_homes(homes_file(file), kept)
    except OSError as error:
        click.echo(f"\nnot kept in step with the oracle: {homes_file(file)}: {error.strerror}")
        click.echo("as root the same command also does that")


def update_homes(file: Path) -> int:
    """Bring what is new to every home and store in the list; the exit status: 0 all done, 1 not all.

    Raises:
        ConfigError: the list cannot be used, or no relay or oracle answers.
    """
    homes = load_homes(homes_file(file))
    if not homes.homes and not homes.cert_stores:
        raise ConfigError(f"{homes_file(file)}: names no home", "blind-oracle-relay setup --home DIR adds one")
    report = ask(load_config(file).control_socket, ControlRequest("certificates"), CertificateReport)
    status = 0
    for one in keep_in_step(homes, report.certificates):
        click.echo(f"{one.path}: {one.problem or 'in step'}", err=bool(one.problem))
        status = max(status, int(bool(one.problem)))
    return status
