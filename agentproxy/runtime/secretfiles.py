"""Secrets that a daemon is given: by systemd as a credential, or in a file that only its owner and root can read.

A credential goes before the file of the same name: with `LoadCredential=server.key:/etc/blind-oracle/tls/server.key`
the configuration still says `key: tls/server.key`, the file is root's alone, and the daemon reads systemd's copy.
Never from a command line or the environment: those can be read in /proc. Source: systemd.exec(5), Credentials.
"""

import os
import stat
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.files import read_private

__all__ = ["credential", "read_credential", "read_secret", "secret_path"]

_DIRECTORY = "CREDENTIALS_DIRECTORY"


def credential(name: str) -> Path | None:
    """The file that systemd made for LoadCredential=NAME and its siblings, if it made one."""
    directory = os.environ.get(_DIRECTORY, "")
    if not directory:
        return None
    path = Path(directory) / name
    return path if path.exists() else None


def secret_path(path: Path) -> Path:
    """Where the secret of the configured `path` is to be read."""
    return credential(path.name) or path


def read_secret(path: Path) -> bytes:
    """Read the secret of the configured `path`.

    Raises:
        ConfigError: it is missing, belongs to somebody else, or others may read it.
    """
    passed = credential(path.name)
    return read_private(path) if passed is None else read_credential(passed)


def read_credential(path: Path) -> bytes:
    """Read a credential that systemd made.

    Raises:
        ConfigError: others may read it, so it is none of systemd's.
    """
    try:
        # systemd gives us access by an access control list, whose mask shows as the group's permission: 0440 is right.
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o027:
            reason = f"{path}: others may read it (mode {mode:04o})"
            raise ConfigError(reason, "systemd makes credentials 0400 or 0440")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
