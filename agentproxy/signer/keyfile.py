"""Reads one key file of gpg-agent: `private-keys-v1.d/KEYGRIP.key`."""

import os
import stat
from pathlib import Path

from agentproxy.protocol.errors import KeyUnavailableError
from agentproxy.protocol.keys import Keygrip
from agentproxy.signer.keytext import MAX_FILE, parse_text
from agentproxy.signer.secretkey import SecretKey, build

__all__ = ["key_path", "load", "parse"]

_FOREIGN_BITS = stat.S_IRWXG | stat.S_IRWXO


def key_path(gnupg_home: Path, keygrip: Keygrip) -> Path:
    """Where gpg-agent keeps the key."""
    return gnupg_home / "private-keys-v1.d" / f"{keygrip}.key"


def load(gnupg_home: Path, keygrip: Keygrip, passphrase: bytes | None = None) -> SecretKey:
    """Read, unlock and check the key. It takes up to a second when the key is protected.

    Raises:
        KeyUnavailableError: naming the file, the reason and, where there is one, a hint.
    """
    path = key_path(gnupg_home, keygrip)
    try:
        return parse(_read(path), keygrip, passphrase)
    except KeyUnavailableError as error:
        raise KeyUnavailableError(f"{path}: {error}", error.hint) from None


def parse(untrusted: bytes, keygrip: Keygrip, passphrase: bytes | None = None) -> SecretKey:
    """The key in the octets of a key file that bears the name of `keygrip`.

    Raises:
        KeyUnavailableError: damaged, locked, not served, or another key than the name says.
    """
    key = build(parse_text(untrusted), passphrase)
    if key.public.keygrip != keygrip:
        raise KeyUnavailableError(f"the file holds another key, {key.public.keygrip}")
    return key


def _read(path: Path) -> bytes:
    try:
        # O_NONBLOCK: a FIFO in the place of a key must not make us wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyUnavailableError(f"cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyUnavailableError("not a regular file")
        if status.st_uid not in {0, os.geteuid()}:
            raise KeyUnavailableError(
                f"owned by uid {status.st_uid}, not by root or us", f"chown {os.geteuid()} {path}"
            )
        if status.st_mode & _FOREIGN_BITS:
            raise KeyUnavailableError(
                f"others may read it (mode {stat.S_IMODE(status.st_mode):04o})", f"chmod 600 {path}"
            )
        return file.read(MAX_FILE + 1)
