"""`blind-oracle dev`."""

import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from agentproxy.admin.dev import parts
from agentproxy.admin.dev.place import Place
from agentproxy.admin.layout import CONFIG_VARIABLE, load_oracle
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.filepath import FilePath

__all__ = ["command"]

_directory = click.argument("directory", metavar="DIR", type=FilePath(file_okay=False))


@click.group("dev")
def command() -> None:
    """Try it all in one directory, without root: an oracle, its signer, a relay and one enrolled build server.

    \b
      blind-oracle dev start DIR
      eval "$(blind-oracle dev env DIR)"
      gpg --list-keys
      gpg --detach-sign FILE
      blind-oracle audit tail
      blind-oracle dev stop DIR

    Everything runs under your own user: without isolation between the parts, so not for real keys.
    """


@command.command("start")
@_directory
@click.argument("part", required=False)
@click.option("--oracles", type=click.IntRange(1, 9), help="How many oracles the first start makes. [default: 1]")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="NAME=FILE",
    help="Serve the exported secret key in FILE as NAME. May be repeated. "
    "[default: fresh keys, modern with RSA-4096 and legacy with RSA-2048]",
)
def start_(directory: Path, part: str | None, oracles: int | None, keys: tuple[str, ...]) -> None:
    """Make what is missing in DIR, and run it in the background; with PART only that part: oracle, relay, oracle-2.

    An oracle runs its signer, so they start and stop together. Several oracles (oracle, oracle-2, …) share registry
    and authority; each has an audit log of its own, and the relay goes to the next one when the first is away.
    """
    place = Place.at(directory)
    exports = _exports(keys)
    if place.is_made and exports:
        raise ConfigError(f"{directory}: --key is for the first start", "blind-oracle key import adds a key later")
    if place.is_made and oracles not in {None, place.oracles}:
        raise ConfigError(
            f"{directory}: --oracles is for the first start", "stop and remove this one, or choose another"
        )
    if part is not None:
        place.check_made()
        _check_part(part, parts.parts_of(place))
    _make_parents(place)
    with place.changing():
        if not place.is_made:
            from agentproxy.admin.dev.making import make  # noqa: PLC0415  half a second that only this needs

            make(place, exports, oracles or 1)
            place.set_made()
        parts.stop_unfinished(place)
        _start(place, part)
    click.echo(f"running in {directory}: {', '.join(_running(place))}")
    click.echo(f'to use it: eval "$(blind-oracle dev env {shlex.quote(str(directory))})"')


@command.command("env")
@_directory
def env_(directory: Path) -> None:
    """Print shell lines that point gpg, rpmsign and our own commands at DIR; use them with eval."""
    place = Place.at(directory)
    place.check_made()
    # Where this very command was installed, relay's beside it; first, so that no other version is found.
    programs = shlex.quote(str(Path(sys.executable).parent))
    click.echo(f'export PATH={programs}:"$PATH"')
    for name, value in {
        "GNUPGHOME": place.home,
        CONFIG_VARIABLE: place.layout.oracle_config,
        "BLIND_ORACLE_RELAY_CONFIG": place.relay_config,
        "BLIND_ORACLE_RELAY_SOCKET": place.socket,
        "BLIND_ORACLE_AUDIT_DIR": place.layout.audit,
        **_http(place),
    }.items():
        click.echo(f"export {name}={shlex.quote(str(value))}")


def _http(place: Place) -> dict[str, Path | str]:
    """What curl needs: the API's address, and the build server's credentials as files."""
    http = load_oracle(place.layout.oracle_config).http
    if http is None or http.listen is None:
        return {}
    credentials = place.credentials
    return {
        "BLIND_ORACLE_HTTP": f"https://{http.listen}",
        "BLIND_ORACLE_HTTP_AUTHORITY": credentials.authority,
        "BLIND_ORACLE_HTTP_CERTIFICATE": credentials.certificate,
        "BLIND_ORACLE_HTTP_KEY": credentials.key,
        "BLIND_ORACLE_HTTP_TOKEN_FILE": credentials.token,
    }


@command.command("status")
@_directory
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.pass_context
def status_(context: click.Context, directory: Path, as_json: bool) -> None:  # noqa: FBT001  a flag of the command line
    """Say which parts run. Exit status 0: all of them, 1: not all."""
    place = Place.at(directory)
    place.check_made()
    found = {name: parts.state_of(place, name) for name in parts.parts_of(place)}
    if as_json:
        plain = {
            name: {"running": process is not None, "pid": None if process is None else process.pid}
            for name, process in found.items()
        }
        click.echo(json.dumps({"directory": str(place.root), "parts": plain}))
    else:
        for name, process in found.items():
            click.echo(f"{name:<9} {'stopped' if process is None else f'running, pid {process.pid}'}")
        click.echo(f"logs      {place.logs}")
    context.exit(0 if all(found.values()) else 1)


@command.command("stop")
@_directory
@click.argument("part", required=False)
def stop_(directory: Path, part: str | None) -> None:
    """Stop what runs in DIR, or one PART of it. The files stay."""
    place = Place.at(directory)
    if not place.root.is_dir():
        raise ConfigError(f"{directory}: there is no such directory")
    if part is not None:
        _check_part(part, parts.runs_by_itself(place))
    # A start may wait for something that never comes, such as an oracle that takes this relay: it must not hold us up.
    with place.changing(meanwhile=lambda: _end_now(place, part)):
        _stop(place, part)
    click.echo(f"stopped in {directory}: {part or 'everything'}")


def _start(place: Place, part: str | None) -> None:
    started = []
    try:
        host = parts.parts_of(place)[part].host if part is not None else ""
        for name in parts.runs_by_itself(place):
            wanted = part in {None, name} or name == host
            if wanted and not parts.is_running(place, name):
                if name == parts.RELAY and not place.relay_config.exists():
                    from agentproxy.admin.dev.making import enrol_relay  # noqa: PLC0415  as above

                    enrol_relay(place)
                parts.start(place, name)
                started.append(name)
        oracles = [name for name in parts.runs_by_itself(place) if name != parts.RELAY]
        if parts.is_running(place, parts.RELAY) and any(parts.is_running(place, name) for name in oracles):
            # A relay that has run for a while looks for an oracle that comes back in its own time.
            with_all = parts.RELAY in started and all(parts.is_running(place, name) for name in oracles)
            parts.wait_until_connected(place, with_all=with_all)
            parts.set_up_home(place)
    except BaseException:
        for name in reversed(started):
            parts.stop(place, name)
        raise


def _stop(place: Place, part: str | None) -> None:
    # The relay first: then the oracles need not wait for it to leave.
    for name in reversed(parts.runs_by_itself(place)):
        if part in {None, name}:
            parts.stop(place, name)
    if part is None:
        parts.stop_rest(place)


def _end_now(place: Place, part: str | None) -> None:
    for name in reversed(parts.runs_by_itself(place)):
        if part in {None, name}:
            parts.end_now(place, name)


def _running(place: Place) -> list[str]:
    return [name for name in parts.parts_of(place) if parts.is_running(place, name)]


def _check_part(part: str, known: Iterable[str]) -> None:
    if part not in known:
        raise click.BadParameter(f"expected one of {', '.join(known)}, got {part!r}", param_hint="PART")


def _exports(keys: tuple[str, ...]) -> Mapping[str, Path]:
    exports: dict[str, Path] = {}
    for text in keys:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in exports:
            raise click.BadParameter(f"expected NAME=FILE, each name once, got {text!r}", param_hint="--key")
        exports[name] = Path(file)
    return exports


def _make_parents(place: Place) -> None:
    try:
        place.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{place.root}: cannot be made: {error.strerror}") from error
