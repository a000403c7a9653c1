"""`blind-oracle key`."""

from pathlib import Path

import click

from agentproxy.admin.importing import MAX_EXPORT, ImportedKey, KeyImport
from agentproxy.admin.intake import take_key
from agentproxy.admin.layout import config_option, load_oracle, load_signer
from agentproxy.admin.policyfile import add, key_addition
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.keys import Fingerprint
from agentproxy.runtime.files import read_private

__all__ = ["command"]


@click.group("key")
def command() -> None:
    """Import signing keys for the signer."""


@command.command("import")
@click.argument("exported", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="The key's name here, such as modern or legacy.")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Holds the passphrase of a protected key in one line; must be readable by you alone. A copy is kept for the "
    "signer.",
)
@click.option("--fingerprint", help="Which key to serve, when the export holds several that can sign.")
@click.option(
    "--accept-certification",
    is_flag=True,
    help="Serve a key that can certify, although whoever gets signatures from it could change certificates.",
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
    policy_add: bool,  # noqa: FBT001
    key_type: str | None,
    config: Path,
) -> None:
    """Take a secret key from EXPORTED into the signer's GnuPG home.

    EXPORTED comes from `gpg --export-secret-subkeys KEYID!`, on the machine that has the primary key. The primary key
    stays there: with a signing subkey nobody can change certificates.
    """
    oracle = load_oracle(config)
    wanted = KeyImport(
        name=name,
        exported=_read(exported),
        passphrase=None if passphrase_file is None else _passphrase(passphrase_file),
        accept_certification=accept_certification,
        fingerprint=None if fingerprint is None else _fingerprint(fingerprint),
    )
    imported = take_key(oracle, load_signer(oracle), wanted)
    _tell(imported)
    addition = key_addition(name, imported.entry.fingerprint, key_type or ("legacy" if name == "legacy" else "modern"))
    if policy_add:
        added = add(oracle.policy, addition)
        click.echo(f"{oracle.policy}: keys.{name} {'added' if added else 'is there already'}")
    else:
        click.echo(f"for {oracle.policy}:\n{addition.by_hand()}", nl=False)
    click.echo("a running signer takes the key, and a running oracle the policy, when you send them SIGHUP")
    click.echo(f"delete {exported} once you have a backup of it in a safe place")


def _tell(imported: ImportedKey) -> None:
    entry = imported.entry
    expires = f", expires {entry.expires:%Y-%m-%d}" if entry.expires is not None else ", never expires"
    click.echo(f"imported {imported.name}: {entry.fingerprint} ({entry.user_id or 'no user ID'}){expires}")
    if entry.can_certify:
        click.echo("warning: this key can certify; see docs/SIGNING_STRATEGY.md", err=True)


def _read(exported: Path) -> bytes:
    try:
        with exported.open("rb") as file:
            return file.read(MAX_EXPORT + 1)
    except OSError as error:
        raise ConfigError(f"{exported}: cannot be read: {error.strerror}") from error


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
