"""Takes an exported OpenPGP secret key into the signer's GnuPG home: `blind-oracle key import`, an offline command.

gpg reads the export in a scratch home and says what is valid; one signing key is chosen, unlocked once so that its
file gets a form that the software backend reads, and checked by that backend's own reader. Only what has passed all
that is installed.
"""

import os
from dataclasses import field
from pathlib import Path

import gnupg

from agentproxy.admin.candidates import Candidate, candidates, choose
from agentproxy.admin.scratch import scratch_home, time_limit
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError, KeyUnavailableError, RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import write_atomically
from agentproxy.signer import keyfile
from agentproxy.signer.keysfile import KeyEntry
from agentproxy.signer.secretkey import SecretKey
from agentproxy.signer.strength import default_algorithms

__all__ = ["MAX_EXPORT", "ImportedKey", "KeyImport", "install_key", "read_export"]

MAX_EXPORT = 1 << 20  # bytes: a key with photographs and a thousand signatures is smaller
_GPG_SECONDS = 120.0  # the slowest real import, with a passphrase, takes about one
_PROBE = b"blind-oracle: does this key sign?"


@frozen
class ImportedKey:
    """What an export gives: the signer's key file, the entry for keys.yaml, and the certificate for everybody."""

    name: str
    entry: KeyEntry
    certificate: bytes = field(repr=False)  # binary OpenPGP, self-signatures only
    key_file: bytes = field(repr=False)  # as gpg-agent keeps it
    is_protected: bool  # the signer needs the passphrase at its start


@frozen
class KeyImport:
    """What is to be imported, and what the operator accepts."""

    name: str  # the key's name in keys.yaml
    exported: bytes = field(repr=False)  # of gpg --export-secret-keys or --export-secret-subkeys, armored or not
    passphrase: str | None = field(default=None, repr=False)  # it goes to gpg through a pipe
    accept_certification: bool = False  # serve a key that can certify
    seal_only: bool = False  # serve it for `seal` alone, which is safe for a key that can certify
    fingerprint: Fingerprint | None = None  # which key, when several can sign


def read_export(wanted: KeyImport) -> ImportedKey:
    """Take the signing key out of an export and leave no trace; `install_key` is the next step.

    It blocks for a second or two, at most two minutes.

    Raises:
        ConfigError: with a reason and a hint.
    """
    try:
        check_name(wanted.name, "key name")
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from None
    if len(wanted.exported) > MAX_EXPORT:
        raise ConfigError(f"the export has more than {MAX_EXPORT} bytes", "export one key only")
    accepted = wanted.accept_certification or wanted.seal_only
    with scratch_home() as (scratch, gpg), time_limit(_GPG_SECONDS):
        _read_export(gpg, wanted.exported)
        chosen = choose(candidates(gpg.list_keys(secret=True)), wanted.fingerprint, accept_certification=accepted)
        _unlock(gpg, chosen, wanted.passphrase)
        key, is_protected = _open(scratch, chosen, wanted.passphrase)
        entry = _entry(chosen, default_algorithms(key.public), wanted)
        certificate = _certificate(gpg, chosen)
        key_file = keyfile.key_path(scratch, chosen.keygrip).read_bytes()
    return ImportedKey(wanted.name, entry, certificate, key_file, is_protected)


def install_key(gnupg_home: Path, imported: ImportedKey) -> None:
    """Put a key's file into the signer's `gnupg_home`, or replace it; an entry in keys.yaml makes the signer serve it.

    Raises:
        ConfigError: it cannot be written; a file that was there before is unchanged.
    """
    target = keyfile.key_path(gnupg_home, imported.entry.keygrip)
    try:
        for directory in (gnupg_home, target.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        # The home is the signer's own, who could lead root elsewhere: it writes there, and gives away what is there.
        if target.parent.is_symlink():
            raise ConfigError(f"{target.parent}: expected a directory, found a symbolic link")
        owner = gnupg_home.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            # The signer runs as the home's owner and could not read what is root's.
            os.chown(target.parent, owner.st_uid, owner.st_gid, follow_symlinks=False)
        write_atomically(target, imported.key_file, 0o600)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error.strerror}") from error


def _read_export(gpg: gnupg.GPG, exported: bytes) -> None:
    result = gpg.import_keys(exported, extra_args=["--import-options", "import-minimal"])
    if not result.count:
        raise ConfigError("gpg finds no OpenPGP key in the export", "gpg --export-secret-subkeys KEYID! writes one")
    if not result.sec_read:
        raise ConfigError("the export holds public keys only", "use gpg --export-secret-subkeys, not --export")


def _unlock(gpg: gnupg.GPG, chosen: Candidate, passphrase: str | None) -> None:
    # gpg-agent turns an import, protected or not, from openpgp-native into a form of its own when it first signs.
    if passphrase is not None and (not passphrase or any(character in "\r\n\0" for character in passphrase)):
        raise ConfigError("the passphrase is empty or more than one line")
    never_ask = ["--pinentry-mode", "error"] if passphrase is None else []
    key = f"{chosen.fingerprint}!"
    told = None if passphrase is None else passphrase.encode().decode(gpg.encoding)  # to gpg it is bytes
    result = gpg.sign(_PROBE, keyid=key, passphrase=told, detach=True, binary=True, extra_args=never_ask)
    if not result.data:
        with_what = "without a passphrase" if passphrase is None else "and this passphrase"
        hint = "a protected key needs `key import --passphrase-file FILE` with the right one"
        raise ConfigError(f"gpg cannot sign with {chosen.fingerprint} {with_what}", hint)


def _open(scratch: Path, chosen: Candidate, passphrase: str | None) -> tuple[SecretKey, bool]:
    """The key as the signer will read it, and whether it needs the passphrase for that."""
    try:
        return keyfile.load(scratch, chosen.keygrip), False
    except KeyUnavailableError as error:
        if passphrase is None:
            raise _unreadable(error) from error
    try:
        return keyfile.load(scratch, chosen.keygrip, passphrase.encode()), True
    except KeyUnavailableError as error:
        raise _unreadable(error) from error


def _unreadable(error: KeyUnavailableError) -> ConfigError:
    _, _, reason = str(error).partition(".key: ")
    return ConfigError(f"the key cannot be served: {reason or error}", error.hint)


def _certificate(gpg: gnupg.GPG, chosen: Candidate) -> bytes:
    exported = gpg.export_keys(str(chosen.primary), armor=False, minimal=True)
    if not isinstance(exported, bytes) or not exported:
        raise ConfigError("gpg exports no certificate for the key")
    return exported


def _entry(chosen: Candidate, algorithms: tuple[HashAlgorithm, ...], wanted: KeyImport) -> KeyEntry:
    return KeyEntry(
        fingerprint=chosen.fingerprint,
        primary=chosen.primary,
        keygrip=chosen.keygrip,
        usage=chosen.usage,
        created=chosen.created,
        expires=chosen.expires,
        user_id=chosen.user_id,
        hash_algorithms=algorithms,
        accept_certification=wanted.accept_certification and chosen.can_certify,
        seal_only=wanted.seal_only,
    )
