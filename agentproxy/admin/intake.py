"""Takes a key in: its secret part for the signer, its certificate for the oracle, its entry for both."""

from agentproxy.admin.importing import ImportedKey, KeyImport, import_key
from agentproxy.admin.keyentries import write_entry
from agentproxy.oracle.config import OracleConfig
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.files import write_atomically
from agentproxy.signer.config import SignerConfig

__all__ = ["take_key"]


def take_key(oracle: OracleConfig, signer: SignerConfig, wanted: KeyImport) -> ImportedKey:
    """Import a key, keep its passphrase and certificate, and let the signer serve it.

    Raises:
        ConfigError: with a reason and a hint.
    """
    imported = import_key(signer.gnupg_home, wanted)
    try:
        if imported.is_protected and wanted.passphrase is not None and signer.passphrases is not None:
            write_atomically(signer.passphrases / wanted.name, f"{wanted.passphrase}\n".encode(), 0o600)
        write_atomically(oracle.certificates / f"{wanted.name}.pgp", imported.certificate, 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written: {error.strerror}") from error
    write_entry(signer.keys_file, wanted.name, imported.entry)
    return imported
