"""Where the passphrases of protected keys come from: systemd's credentials, or a directory that only root and we read.

Never from a command line or the environment: those can be read in /proc.
"""

import os
import stat
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.files import read_private

__all__ = ["credentials_directory", "find"]

MAX_PASSPHRASE = 1024  # bytes; gpg-agent takes 255 from a terminal


def credentials_directory() -> Path | None:
    """What systemd made for LoadCredential= and its siblings, if it started us."""
    value = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(value) if value else None


def find(name: str, directory: Path | None, credentials: Path | None) -> bytes | None:
    """Look for the passphrase of the key `name`: the credential `passphrase.NAME`, else the file NAME, else None.

    Args:
        name: the key's name in keys.yaml.
        directory: `passphrases` of signer.yaml.
        credentials: as `credentials_directory` gives it.

    Raises:
        ConfigError: a file is there but others may read it, or it is empty or too long.
    """
    credential = credentials / f"passphrase.{name}" if credentials is not None else None
    if credential is not None and credential.exists():
        return _one_line(credential, _read_credential(credential))
    path = directory / name if directory is not None else None
    if path is not None and path.exists():
        return _one_line(path, read_private(path))
    return None


def _read_credential(path: Path) -> bytes:
    # systemd gives us access by an access control list, whose mask shows as the group's permission: 0440 is right here.
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o027:
        raise ConfigError(f"{path}: others may read it (mode {mode:04o})", "systemd makes credentials 0400 or 0440")
    return path.read_bytes()


def _one_line(path: Path, content: bytes) -> bytes:
    # One newline at the end is an editor's; any other blank belongs to the passphrase.
    content = content.removesuffix(b"\n")
    if not content or len(content) > MAX_PASSPHRASE or b"\n" in content or b"\x00" in content:
        raise ConfigError(f"{path}: expected one line of 1 to {MAX_PASSPHRASE} bytes")
    return content
