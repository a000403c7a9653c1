"""Takes a key in: its secret part for the signer, its certificate for the oracle, its entry for both."""

from agentproxy.admin.importing import ImportedKey, KeyImport, install_key, read_export
from agentproxy.admin.keyentries import entry_written
from agentproxy.oracle.config import OracleConfig
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.files import write_atomically
from agentproxy.signer.config import SignerConfig

__all__ = ["take_key"]


def take_key(oracle: OracleConfig, signer: SignerConfig, wanted: KeyImport) -> ImportedKey:
    """Import a key, keep its passphrase and certificate, and let the signer serve it; again, it updates all of them.

    Raises:
        ConfigError: with a reason and a hint; what keys.yaml refuses leaves nothing changed.
    """
    imported = read_export(wanted)
    # Files have the key's name, so nothing is written before it is known whose the name is; and the entry comes last: a
    # new key that was killed in between is none yet, and for an old one the same import again finishes what was begun.
    with entry_written(signer.keys_file, wanted.name, imported.entry):
        install_key(signer.gnupg_home, imported)
        try:
            if imported.is_protected and wanted.passphrase is not None and signer.passphrases is not None:
                write_atomically(signer.passphrases / wanted.name, f"{wanted.passphrase}\n".encode(), 0o600)
            write_atomically(oracle.certificates / f"{wanted.name}.pgp", imported.certificate, 0o644)
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return imported
