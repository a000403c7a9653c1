"""Where the passphrases of protected keys come from: systemd's credentials, or files that only root and we read."""

from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.files import read_private
from agentproxy.runtime.secretfiles import credential, read_credential

__all__ = ["find", "place"]

MAX_PASSPHRASE = 1024  # bytes; gpg-agent takes 255 from a terminal

# One credential for a key, or one for each file of a directory: LoadCredential=passphrase:DIRECTORY makes
# passphrase_NAME, and our unit has LoadCredentialEncrypted=encrypted:DIRECTORY beside it.
_CREDENTIALS = ("passphrase.{}", "passphrase_{}", "encrypted_{}")


def find(name: str, directory: Path | None) -> bytes | None:
    """Look for the passphrase of the key `name`: a credential of systemd's, else the file NAME, else None.

    Args:
        name: the key's name in keys.yaml.
        directory: `passphrases` of signer.yaml.

    Raises:
        ConfigError: a file is there but others may read it, or we may not, or it is empty or too long.
    """
    passed = _passed(name)
    if passed is not None:
        return _one_line(passed, read_credential(passed))
    path = place(name, directory)
    try:
        if path is None or not path.exists():
            return None
    except PermissionError as error:
        hint = "systemd passes passphrases when it starts the signer: systemctl restart blind-oracle-signer"
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint) from error
    return _one_line(path, read_private(path))


def place(name: str, directory: Path | None) -> Path | None:
    """Where `find` looks for the passphrase of the key `name`; None: nowhere. The file may be missing."""
    return _passed(name) or (directory / name if directory is not None else None)


def _passed(name: str) -> Path | None:
    found = (credential(form.format(name)) for form in _CREDENTIALS)
    return next((path for path in found if path is not None), None)


def _one_line(path: Path, content: bytes) -> bytes:
    # One newline at the end is an editor's; any other blank belongs to the passphrase.
    content = content.removesuffix(b"\n")
    if not content or len(content) > MAX_PASSPHRASE or b"\n" in content or b"\x00" in content:
        raise ConfigError(
            f"{path}: expected one line of 1 to {MAX_PASSPHRASE} bytes",
            "write the key's passphrase into it, and only that",
        )
    return content
