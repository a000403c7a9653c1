"""`blind-oracle-relay fallback`: lets a host sign by itself for a bounded time, and shows what it did."""

import re
from pathlib import Path

import click

from agentproxy.runtime.filepath import FilePath
from relay.config import config_path
from relay.configoption import config_option
from relay.fallbackmode import FallbackMode

__all__ = ["fallback_group"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?:[0-9]{1,6}[smhd])+")


def _duration(_: click.Context, __: click.Parameter, value: str | None) -> int:
    """Seconds of `90m` or `1d12h`; 0 when it is not given."""
    if value is None:
        return 0
    if _DURATION.fullmatch(value) is None:
        raise click.BadParameter(f"expected a time such as 90m, 2h or 1d12h, got {value!r}")
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", value))


def _why(_: click.Context, __: click.Parameter, value: str) -> str:
    """A reason that tells something; `--reason "$UNSET"` would leave the records without one."""
    if not value.strip():
        raise click.BadParameter("expected why, got an empty text")
    return value


_FOR = click.option(
    "--for", "seconds", callback=_duration, required=True, metavar="TIME", help="How long, such as 2h; a week at most."
)
_REASON = click.option(
    "--reason", callback=_why, required=True, help="Why, for the journal, the audit log and your colleagues."
)


@click.group("fallback")
def fallback_group() -> None:
    """Let this host sign with a key of its own while no oracle can.

    Only where the oracle's policy says so (`fallback: true` of this runner). `status` shows whether it does now.
    """


@fallback_group.command("on")
@_FOR
@_REASON
@config_option
def _on(seconds: int, reason: str, config: Path | None) -> None:
    """Sign with this host's own key from now on, whatever the oracles do."""
    _switch(config, FallbackMode.FORCED, seconds, reason)


@fallback_group.command("auto")
@_FOR
@_REASON
@config_option
def _auto(seconds: int, reason: str, config: Path | None) -> None:
    """Sign with this host's own key whenever no oracle has answered for a while (after_seconds in relay.yaml)."""
    _switch(config, FallbackMode.AUTO, seconds, reason)


@fallback_group.command("off")
@click.option(
    "--for", "seconds", callback=_duration, metavar="TIME", help="How long; default: until somebody switches again."
)
@_REASON
@config_option
def _off(seconds: int, reason: str, config: Path | None) -> None:
    """Sign by the oracle only."""
    _switch(config, FallbackMode.NEVER, seconds, reason)


@fallback_group.command("reset")
@_REASON
@config_option
def _reset(reason: str, config: Path | None) -> None:
    """Let relay.yaml decide again."""
    _switch(config, None, 0, reason)


def _switch(config: Path | None, mode: FallbackMode | None, seconds: int, reason: str) -> None:
    from relay.config import load_config  # noqa: PLC0415  each command only its own
    from relay.control_call import ask  # noqa: PLC0415
    from relay.fallbackreport import FallbackReport, fallback_lines  # noqa: PLC0415
    from relay.status import ControlRequest  # noqa: PLC0415

    request = ControlRequest("fallback", mode=mode, seconds=seconds, reason=reason)
    report = ask(load_config(config or config_path()).control_socket, request, FallbackReport)
    for line in fallback_lines(report):
        click.echo(line)


@fallback_group.command("setup")
@click.option("--import", "file", type=FilePath(dir_okay=False), help="An exported secret subkey.")
@click.option("--make", "algorithm", default="rsa3072", show_default=True, help="Without --import: make such a key.")
@click.option("--expire", default="1y", show_default=True, help="When a key that is made here expires.")
@config_option
def _setup(file: Path | None, algorithm: str, expire: str, config: Path | None) -> None:
    """Give this host a key of its own, and print its public certificate for you to sign and distribute.

    The key lies in a GnuPG home of its own with a gpg-agent of its own. Doing it again adds a key.
    """
    from relay.config import load_config  # noqa: PLC0415
    from relay.fallbacksetup import Wish, set_up  # noqa: PLC0415

    done = set_up(load_config(config or config_path()), Wish(file, algorithm, expire))
    click.echo(done.certificates, nl=False)
    for key in done.keys:
        click.echo(f"key {key.fingerprint} {key.user_id} is ready in {done.home}", err=True)
    click.echo("next: put the certificate where your packages' users get keys, and run on this host:", err=True)
    click.echo(
        "  blind-oracle-relay setup --home GNUPGHOME      # each home that signs here, so that gpg knows the key",
        err=True,
    )


@fallback_group.command("verify")
@click.argument("file", required=False, type=FilePath(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Every record, one a line, for programs.")
@config_option
@click.pass_context
def _verify(context: click.Context, file: Path | None, as_json: bool, config: Path | None) -> None:  # noqa: FBT001  click's form
    """Check this host's journal, or a copy in FILE. Exit status 1 says that it is damaged."""
    from relay.config import load_config  # noqa: PLC0415
    from relay.fallbackmode import FallbackPlaces  # noqa: PLC0415
    from relay.journalreading import read  # noqa: PLC0415

    if file is None:
        loaded = load_config(config or config_path())
        file = FallbackPlaces.of(loaded.state, loaded.fallback).journal
    reading = read(file)
    if as_json:
        for line in reading.lines:
            click.echo(line.decode("ascii"))
    click.echo(reading.words, err=as_json)
    context.exit(1 if reading.damage else 0)
