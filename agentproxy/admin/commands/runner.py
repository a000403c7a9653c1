"""`blind-oracle runner`."""

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import click

from agentproxy.admin.credentialrows import RunnerRow, runner_row, runner_rows
from agentproxy.admin.credentialtables import print_json, print_table, runner_cells, token_cells
from agentproxy.admin.enrolment import add_runner, attach_of, enrol_again, known_credentials, registry_desk
from agentproxy.admin.layout import config_option, load_oracle
from agentproxy.admin.policyfile import add, runner_addition
from agentproxy.admin.revocations import certificates_named
from agentproxy.admin.secretfiles import write_secret
from agentproxy.admin.sshkeys import SshKey, authorized_line
from agentproxy.oracle.changes import CertificateRevoked, Change, RunnerDisabled, RunnerEnabled, RunnerRemoved
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.policy import Policy
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.config import load
from agentproxy.runtime.filepath import FilePath

__all__ = ["command"]

_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_SHOWN = "blind-oracle runner show NAME shows them"


_ssh_key_option = click.option(
    "--ssh-key",
    type=FilePath(),
    metavar="FILE",
    help="The ssh public key of a build server that reaches the oracle over ssh: prints its line for authorized_keys.",
)


@click.group("runner")
def command() -> None:
    """Add build servers, list them, and end what they may do."""


@command.command("add")
@click.argument("name")
@click.option("--output", type=FilePath(), help="Where the enrolment file goes. [default: NAME.enrolment]")
@click.option("--key", "keys", multiple=True, help="A key of the policy that it may use. May be repeated.")
@_ssh_key_option
@click.option(
    "--policy-add", is_flag=True, help="Add the runner to the policy file, too, instead of showing the lines."
)
@config_option
def add_(  # noqa: PLR0913, PLR0917  a command's options
    name: str,
    output: Path | None,
    keys: tuple[str, ...],
    ssh_key: Path | None,
    policy_add: bool,  # noqa: FBT001  a flag of the command line
    config: Path,
) -> None:
    """Add the build server NAME and write its enrolment file: like a password, for a day and one use.

    On the build server `blind-oracle-relay enroll FILE` exchanges it for credentials that renew themselves.
    What the build server may do, the policy says.
    """
    oracle = load_oracle(config)
    policy = load(oracle.policy, Policy)
    unknown = [key for key in keys if key not in policy.keys]
    if unknown:
        raise ConfigError(f"{oracle.policy}: no key {unknown[0]}", f"known: {', '.join(policy.keys) or 'none yet'}")
    if policy_add and not keys:
        raise ConfigError("--policy-add: expected --key, too", f"known: {', '.join(policy.keys) or 'none yet'}")
    line = _authorized_line(oracle, name, ssh_key)
    addition = runner_addition(name, keys or ("KEY",))
    if policy_add:  # first: an entry without credentials does nothing, and can be tried again
        add(oracle.policy, addition)
    file = output or Path(f"{name}.enrolment")
    write_secret(file, lambda: add_runner(oracle, name, over_ssh=line is not None))
    click.echo(f"added runner {name}; within a day, on that host: blind-oracle-relay enroll {file}")
    if line is not None:
        _print_authorized(oracle, line)
    if policy_add:
        click.echo(f"{oracle.policy}: runners.{name} added; a running oracle takes it: blind-oracle reload")
    elif name not in policy.runners:
        click.echo(f"for {oracle.policy}, without which it may do nothing:\n{addition.by_hand()}", nl=False)


@command.command("enroll")
@click.argument("name")
@click.option("--output", type=FilePath(), help="Where the enrolment file goes. [default: NAME.enrolment]")
@click.option(
    "--revoke-old", is_flag=True, help="End what it holds already, for ever; always so when NAME is disabled."
)
@_ssh_key_option
@config_option
def enroll_(
    name: str,
    output: Path | None,
    ssh_key: Path | None,
    revoke_old: bool,  # noqa: FBT001  a flag of the command line
    config: Path,
) -> None:
    """Give the build server NAME another enrolment file: its host was made anew, or the day of the first one is over.

    What it holds already stays good, unless it is disabled or --revoke-old stands there: then all its tokens and
    certificates end for ever, and whoever has a copy of them has nothing. A disabled one stays disabled.
    One that comes over ssh needs --ssh-key, also for the key that it has already: the file then names the ssh address.
    """
    oracle = load_oracle(config)
    before = _row(oracle, name)
    line = _authorized_line(oracle, name, ssh_key)
    ends_old = revoke_old or before.state == "disabled"
    file = output or Path(f"{name}.enrolment")
    write_secret(file, lambda: enrol_again(oracle, name, over_ssh=line is not None, revoke_old=ends_old))
    held = _held(before)
    if ends_old:
        click.echo(f"revoked for ever what {name} held: {held}")
    elif any(before.good):
        click.echo(f"what {name} holds stays good: {held}; with --revoke-old it ends")
    if before.state == "disabled":
        click.echo(f"{name} is still disabled, and the file works only afterwards: blind-oracle runner enable {name}")
    click.echo(f"within a day, on that host: blind-oracle-relay enroll {file}")
    if line is not None:
        _print_authorized(oracle, line)
    elif oracle.attach is not None and oracle.attach.address:
        click.echo("the file names TLS addresses; for a build server that comes over ssh: --ssh-key FILE")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@config_option
def list_(as_json: bool, config: Path) -> None:  # noqa: FBT001  a flag of the command line
    """List all build servers."""
    rows = runner_rows(known_credentials(load_oracle(config)), datetime.now(UTC))
    if as_json:
        print_json(rows)
    else:
        print_table(runner_cells(rows))


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@config_option
def show_(name: str, as_json: bool, config: Path) -> None:  # noqa: FBT001  a flag of the command line
    """Show the build server NAME with its tokens and certificates."""
    row = _row(load_oracle(config), name)
    if as_json:
        print_json(row)
        return
    print_table(runner_cells([row]))
    click.echo()
    print_table(token_cells(row.tokens))
    click.echo("\ncertificates, by the SHA-256 of their public keys and by their own, as audit records have it:")
    for one in row.certificates:
        click.echo(f"public key   {one.public_key_sha256}  {one.state}\ncertificate  {one.sha256}")


@command.command("disable")
@click.argument("name")
@config_option
def disable_(name: str, config: Path) -> None:
    """Let the build server NAME do nothing until it is enabled; its connections end within a second."""
    _change(config, RunnerDisabled(name), name)
    click.echo(f"disabled runner {name}")


@command.command("enable")
@click.argument("name")
@config_option
def enable_(name: str, config: Path) -> None:
    """Let the build server NAME work again, with the credentials that it has.

    If others may have a copy of those, `blind-oracle runner enroll NAME` comes first: it ends them.
    """
    _change(config, RunnerEnabled(name), name)
    click.echo(f"enabled runner {name}, with what it holds: {_held(_row(load_oracle(config), name))}")


@command.command("remove")
@click.argument("name")
@config_option
def remove_(name: str, config: Path) -> None:
    """Remove the build server NAME: its tokens go, its certificates stay revoked for ever. The policy stays."""
    _change(config, RunnerRemoved(name), name)
    click.echo(f"removed runner {name}")


@command.command("revoke-certificate")
@click.argument("sha256", metavar="SHA256")
@click.option(
    "--unknown", is_flag=True, help="SHA256 is a public key's that the registry does not know; revoke it all the same."
)
@config_option
def revoke_certificate_(sha256: str, unknown: bool, config: Path) -> None:  # noqa: FBT001  a flag of the command line
    """End a certificate for ever, and every other one with the same public key.

    SHA256, 64 hex digits, is the public key's or the certificate's own: `runner show` tells both, and audit records
    have the latter. A certificate of the same CA that is not in the registry opens nothing as it is; --unknown keeps
    its public key out for ever, should it come into the registry later.
    """
    if _SHA256.fullmatch(sha256) is None:
        raise ConfigError("SHA256: expected 64 hex digits", _SHOWN)
    credentials = known_credentials(load_oracle(config))
    named = certificates_named(credentials, bytes.fromhex(sha256))
    key = named[0].public_key_sha256 if named else bytes.fromhex(sha256)
    if key in credentials.revoked_public_keys:
        click.echo(f"public key {key.hex()} is revoked already")
        return
    if not named and not unknown:
        hint = f"{_SHOWN}; those of a removed runner are revoked; --unknown takes any public key"
        raise ConfigError(f"no certificate or public key {sha256.lower()} in the registry", hint)
    runners = Counter(one.runner for one in named)
    _change(config, CertificateRevoked(key), next(iter(runners), None))
    for runner, number in runners.items():
        click.echo(f"revoked {_counted(number, 'certificate')} of runner {runner}, public key {key.hex()}")
    if not named:
        click.echo(f"revoked public key {key.hex()}, which no certificate in the registry has")


def _authorized_line(oracle: OracleConfig, name: str, ssh_key: Path | None) -> str | None:
    return None if ssh_key is None else authorized_line(name, SshKey.read(ssh_key), attach_of(oracle))


def _print_authorized(oracle: OracleConfig, line: str) -> None:
    users = ", ".join(attach_of(oracle).users)
    click.echo(f"for ~/.ssh/authorized_keys of {users} on the oracle's host:\n{line}", nl=False)


def _row(oracle: OracleConfig, name: str) -> RunnerRow:
    row = runner_row(known_credentials(oracle, name), name, datetime.now(UTC))
    if row is None:
        raise ConfigError(f"no runner {name}", "blind-oracle runner list shows them")
    return row


def _held(row: RunnerRow) -> str:
    tokens, certificates = row.good
    return f"{_counted(tokens, 'token')} and {_counted(certificates, 'certificate')}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _change(config: Path, change: Change, name: str | None) -> None:
    with registry_desk(load_oracle(config)) as desk:
        desk.change(change, name)
