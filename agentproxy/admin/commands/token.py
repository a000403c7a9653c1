"""`blind-oracle token`."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from agentproxy.admin.credentialrows import token_rows
from agentproxy.admin.credentialtables import print_json, print_table, token_cells
from agentproxy.admin.enrolment import known_credentials, registry_desk
from agentproxy.admin.layout import config_option, load_oracle
from agentproxy.admin.secretfiles import write_secret
from agentproxy.oracle.changes import TokenIssued, TokenRevoked
from agentproxy.oracle.issuing import new_token
from agentproxy.runtime.filepath import FilePath

__all__ = ["command"]


@click.group("token")
def command() -> None:
    """List, rotate and revoke the tokens of build servers."""


@command.command("list")
@click.option("--runner", help="Only this runner's.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@config_option
def list_(runner: str | None, as_json: bool, config: Path) -> None:  # noqa: FBT001  a flag of the command line
    """List tokens by their public ids; nobody can show a token again."""
    credentials = known_credentials(load_oracle(config), runner)
    rows = [row for row in token_rows(credentials, datetime.now(UTC)) if runner in {None, row.runner}]
    if as_json:
        print_json(rows)
    else:
        print_table(token_cells(rows))


@command.command("rotate")
@click.argument("runner")
@click.option(
    "--overlap",
    "overlap_minutes",
    type=click.IntRange(0, 10_080),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="How long the runner's other tokens stay good.",
)
@click.option("--days", type=click.IntRange(1, 3660), help="How long it lasts. [default: oracle.yaml's token_days]")
@click.option("--output", type=FilePath(), help="Where the token goes. [default: RUNNER.token]")
@config_option
def rotate_(runner: str, overlap_minutes: int, days: int | None, output: Path | None, config: Path) -> None:
    """Give RUNNER a new token, in a file that you alone can read; its other tokens end after the overlap.

    Relays get new credentials by themselves: this is for clients by token alone.
    """
    oracle = load_oracle(config)
    file = output or Path(f"{runner}.token")
    now = datetime.now(UTC)
    expires = now + timedelta(days=days or oracle.credentials.token_days)
    ends = now + timedelta(minutes=overlap_minutes)

    def make() -> bytes:
        token = new_token()
        with registry_desk(oracle) as desk:
            digest = hashlib.sha256(token.encode("ascii")).digest()
            desk.change(TokenIssued(runner, digest, expires, ends), runner)
        return f"{token}\n".encode("ascii")

    write_secret(file, make)
    click.echo(
        f"{file}: the new token of {runner}, until {expires:%Y-%m-%d}; the others end at {ends:%Y-%m-%d %H:%M} UTC"
    )


@command.command("revoke")
@click.argument("token_id", metavar="ID")
@config_option
def revoke_(token_id: str, config: Path) -> None:
    """End the token ID for ever, and within a second every connection that was opened with it."""
    with registry_desk(load_oracle(config)) as desk:
        desk.change(TokenRevoked(token_id))
    click.echo(f"revoked token {token_id}")
