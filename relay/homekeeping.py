"""What `setup` and `keyrings` do: make GnuPG homes and keep them in step with the oracle."""

import os
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from agentproxy.protocol.errors import ConfigError
from relay.config import RelayConfig, load_config
from relay.control_call import ask
from relay.enrolment import places_for
from relay.homes import Homes, KeptHome, change_homes, homes_file, joined, load_homes, with_home, with_store
from relay.keyrings import fill_store, keep_in_step
from relay.owner import as_owner_of
from relay.setup import refuse_long_name, rpm_macros, set_up
from relay.status import CertificateReport, ControlRequest
from relay.yamltext import quoted

__all__ = ["make_homes", "update_homes"]


def make_homes(file: Path, homes: Sequence[Path], socket: Path | None, store: Path | None, *, shared: bool) -> None:
    """Make or mend GnuPG homes, and say how to use them.

    Args:
        file: relay.yaml.
        homes: none: the usual one beside `file`.
        socket: which of the relay's; None: the first. Another one is only warned of: an image may be made for a place
            where the relay's socket is to be mounted.
        store: a certificate store of Sequoia's to fill, too.
        shared: see `relay.setup.set_up`.

    Raises:
        ConfigError: with a reason and a hint.
    """
    config = load_config(file)
    report = ask(config.control_socket, ControlRequest("certificates"), CertificateReport)
    target = (socket or Path(report.sockets[0])).absolute()
    wanted = [one.absolute() for one in homes] or [usual_home(file).absolute()]
    # What cannot be noted shall not be made, and a list that is no good shall show now.
    for path in (target, *wanted, *(() if store is None else (store,))):
        quoted(str(path))
    load_homes(homes_file(file))
    _warn_of_a_strange_socket(target, config, file)
    done = Homes()
    try:
        for home in wanted:
            told = as_owner_of(home, partial(_made, home, target, report.certificates, shared=shared))
            done = with_home(done, KeptHome(home, target, shared))  # noted also when the output takes no words of it
            click.echo(told)
        if store is not None:
            absolute = store.absolute()
            as_owner_of(absolute, partial(fill_store, absolute, report.certificates))
            done = with_store(done, absolute)
            click.echo(f"{absolute}: filled for sq")
    finally:
        _remember(file, done)


def _warn_of_a_strange_socket(target: Path, config: RelayConfig, file: Path) -> None:
    ours = [one.path.absolute() for one in config.sockets]
    if any(_is_same(target, one) for one in ours):
        return
    is_there = os.path.exists(target)  # noqa: PTH110  Path's raises where it may not look
    state = "is none of the sockets of this relay" if is_there else "is not there, and no socket of this relay"
    click.echo(f"blind-oracle-relay: warning: {target}: {state}: gpg will not find it there", err=True)
    click.echo(f"blind-oracle-relay: hint: {file} names {', '.join(map(str, ours))}", err=True)


def _is_same(one: Path, other: Path) -> bool:
    """Also before they are there, and where one is mounted in another place."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


def _made(home: Path, socket: Path, certificates: Sequence[bytes], *, shared: bool) -> str:
    refuse_long_name(home, shared=shared)
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


def _remember(file: Path, done: Homes) -> None:
    """Note what was done, also when the rest was not."""
    if done == Homes():
        return
    kept, problem = homes_file(file), ""
    if not os.access(kept.parent, os.W_OK):
        problem = "the directory cannot be written"
    else:
        try:
            change_homes(kept, lambda homes: joined(homes, done))
        except OSError as error:
            problem = error.strerror or str(error)
    if problem:
        click.echo(f"\nnot kept in step with the oracle: {kept}: {problem}")
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
