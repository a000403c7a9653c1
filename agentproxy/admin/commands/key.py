"""`blind-oracle key`: taking keys in, and telling of those that are there."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from agentproxy.admin.importing import MAX_EXPORT, ImportedKey, KeyImport
from agentproxy.admin.intake import take_key
from agentproxy.admin.keylisting import KeyRow, KeyUse, key_row, key_rows, key_use, key_warnings
from agentproxy.admin.keytables import plain, sheet, table
from agentproxy.admin.layout import config_option, load_oracle, load_signer
from agentproxy.admin.policyfile import add, key_addition
from agentproxy.admin.servedkeys import served_keys
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.policy import Deny, Policy
from agentproxy.oracle.selection import select_key
from agentproxy.protocol.armor import armored
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.keys import Fingerprint
from agentproxy.runtime.config import load
from agentproxy.runtime.filepath import FilePath
from agentproxy.runtime.files import read_beginning, read_private, write_atomically

__all__ = ["command"]


_NOT_A_TERMINAL = 240  # columns, so that a file or a pipe gets whole lines

_json = click.option("--json", "as_json", is_flag=True, help="For machines.")


@click.group("key")
def command() -> None:
    """Import signing keys, and tell of those that are served."""


@command.command("import")
@click.argument("exported", type=FilePath(dir_okay=False))
@click.option("--name", required=True, help="The key's name here, such as modern or legacy.")
@click.option(
    "--passphrase-file",
    type=FilePath(dir_okay=False),
    help="Holds the passphrase of a protected key in one line; must be readable by you alone. A copy is kept for the "
    "signer.",
)
@click.option("--fingerprint", help="Which key to serve, when the export holds several that can sign.")
@click.option(
    "--accept-certification",
    is_flag=True,
    help="Serve a key that can certify, although whoever gets signatures from it could change certificates.",
)
@click.option(
    "--seal-only",
    is_flag=True,
    help="Serve the key only where the signer itself composes what is signed; safe for all.",
)
@click.option("--policy-add", is_flag=True, help="Add the key to the policy file, too, instead of showing the lines.")
@click.option("--type", "key_type", help="The key's type in the policy. [default: legacy when so named, else modern]")
@config_option
def import_(  # noqa: PLR0913, PLR0917  one parameter for each option
    exported: Path,
    name: str,
    passphrase_file: Path | None,
    fingerprint: str | None,
    accept_certification: bool,  # noqa: FBT001  a flag of the command line
    seal_only: bool,  # noqa: FBT001
    policy_add: bool,  # noqa: FBT001
    key_type: str | None,
    config: Path,
) -> None:
    """Take a secret key from EXPORTED into the signer's GnuPG home.

    EXPORTED comes from `gpg --export-secret-subkeys KEYID!`, on the machine that has the primary key. The primary key
    stays there: with a signing subkey nobody can change certificates.
    """
    named = ("legacy" if name == "legacy" else "modern") if key_type is None else _name(key_type, "--type")
    oracle = load_oracle(config)
    wanted = KeyImport(
        name=name,
        exported=read_beginning(exported, MAX_EXPORT + 1),
        passphrase=None if passphrase_file is None else _passphrase(passphrase_file),
        accept_certification=accept_certification,
        seal_only=seal_only,
        fingerprint=None if fingerprint is None else _fingerprint(fingerprint),
    )
    imported = take_key(oracle, load_signer(oracle), wanted)
    _tell(imported)
    addition = key_addition(name, imported.entry.fingerprint, named, imported.entry.hash_algorithms)
    if policy_add:
        added = add(oracle.policy, addition)
        click.echo(f"{oracle.policy}: keys.{name} {'added' if added else 'is there already'}")
    else:
        click.echo(f"for {oracle.policy}:\n{addition.by_hand()}", nl=False)
    if oracle.signer.is_child:
        click.echo("a running oracle takes the policy, and its signer the key: blind-oracle reload")
    else:
        click.echo("a running signer takes the key: systemctl reload blind-oracle-signer; restart it for a passphrase")
        click.echo("a running oracle takes the policy: blind-oracle reload")
    click.echo(f"delete {exported} once you have a backup of it in a safe place")


@command.command("list")
@_json
@config_option
def list_(as_json: bool, config: Path) -> None:  # noqa: FBT001  a flag of the command line
    """List the keys of the signer's keys file, who may use them, and every risk that was accepted with them."""
    oracle = load_oracle(config)
    signer = load_signer(oracle)
    rows = key_rows(signer.keys_file, signer.gnupg_home, datetime.now(UTC))
    _show([(row, _use(oracle, row)) for row in rows], as_json=as_json)


@command.command("show")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_json
@config_option
def show_(names: tuple[str, ...], as_json: bool, config: Path) -> None:  # noqa: FBT001
    """Show everything that is known of the keys NAME, as the signer's keys file names them."""
    oracle = load_oracle(config)
    signer = load_signer(oracle)
    rows = [key_row(signer.keys_file, signer.gnupg_home, name, datetime.now(UTC)) for name in names]
    _show([(row, _use(oracle, row)) for row in rows], as_json=as_json, whole=True)


@command.command("export")
@click.argument("name")
@click.option("--output", type=FilePath(dir_okay=False), help="A new file instead of the output.")
@click.option("--binary", is_flag=True, help="Without ASCII armor.")
@config_option
def export_(name: str, output: Path | None, binary: bool, config: Path) -> None:  # noqa: FBT001
    """Write the public certificate that the key NAME stands in, for those who verify signatures."""
    path = load_oracle(config).certificates / f"{_name(name, 'NAME')}.pgp"
    try:
        certificate = path.read_bytes()
        content = certificate if binary else armored(certificate)
        if output is None:
            click.echo(content if binary else content.decode("ascii"), nl=False)
        elif output.exists():
            raise ConfigError(f"{output}: is there already", "choose another with --output")
        else:
            write_atomically(output, content, 0o644)
    except OSError as error:
        if output is None and error.filename is None:
            raise  # standard output, of which all commands tell alike
        hint = "blind-oracle key list shows the names" if error.filename == str(path) else ""
        raise ConfigError(f"{error.filename or output}: {error.strerror}", hint) from error


@command.command("for")
@click.argument("distribution")
@click.option("--type", "key_type", help="Only keys of this type, such as legacy.")
@click.option("--runner", help="Only keys that this runner may use there.")
@_json
@config_option
def for_(distribution: str, key_type: str | None, runner: str | None, as_json: bool, config: Path) -> None:  # noqa: FBT001
    """Name the key for DISTRIBUTION: the one whose pattern in the policy is the most exact.

    Exit status 1 says that there is none, or more than one.
    """
    oracle = load_oracle(config)
    policy = load(oracle.policy, Policy)
    served = served_keys(oracle)
    if not served.are_known:
        click.echo(f"warning: what the signer serves was not looked at: {served.trouble}", err=True)
    facts = served.keys if served.are_known else None
    chosen = select_key(policy, _name(distribution, "DISTRIBUTION"), key_type, runner=runner, served=facts)
    if isinstance(chosen, Deny):
        raise ConfigError(chosen.reason, f"blind-oracle policy check {oracle.policy}")
    rule = policy.keys[chosen]
    found = {"key": chosen, "type": rule.type, "fingerprint": str(rule.fingerprint)}
    click.echo(json.dumps(found) if as_json else chosen)


def _use(oracle: OracleConfig, row: KeyRow) -> KeyUse | None:
    """None: the policy is wrong, which `policy check` explains."""
    try:
        return key_use(load(oracle.policy, Policy), row.entry)
    except ConfigError:
        return None


def _show(rows: list[tuple[KeyRow, KeyUse | None]], *, as_json: bool, whole: bool = False) -> None:
    if as_json:
        click.echo(json.dumps([plain(row, use) for row, use in rows]))
        return
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = _NOT_A_TERMINAL
    for one in [sheet(row, use) for row, use in rows] if whole else [table(rows)]:
        console.print(one)
    for warning in key_warnings(row for row, _ in rows):
        click.echo(f"warning: {warning}")
    if any(use is None for _, use in rows):
        click.echo("warning: the policy is wrong, so who may use the keys is not known: blind-oracle policy check")


def _name(text: str, what: str) -> str:
    try:
        check_name(text, what)
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from error
    return text


def _tell(imported: ImportedKey) -> None:
    entry = imported.entry
    expires = f", expires {entry.expires:%Y-%m-%d}" if entry.expires is not None else ", never expires"
    click.echo(f"imported {imported.name}: {entry.fingerprint} ({entry.user_id or 'no user ID'}){expires}")
    if entry.can_certify:
        click.echo("warning: this key can certify; see docs/SIGNING_STRATEGY.md", err=True)


def _passphrase(path: Path) -> str:
    try:
        return read_private(path).decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected a passphrase in UTF-8") from error


def _fingerprint(text: str) -> Fingerprint:
    try:
        return Fingerprint.parse(text.replace(" ", ""))
    except RemoteProtocolError as error:
        raise ConfigError(f"--fingerprint: {error}", "gpg --list-keys --with-subkey-fingerprint shows it") from error
