"""Reads one key file of gpg-agent: `private-keys-v1.d/KEYGRIP.key`."""

from pathlib import Path

from agentproxy.protocol.errors import ConfigError, KeyUnavailableError
from agentproxy.protocol.keys import Keygrip
from agentproxy.runtime.files import read_private
from agentproxy.signer.keytext import parse_text
from agentproxy.signer.secretkey import SecretKey, build

__all__ = ["key_path", "load", "parse"]


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
        untrusted = read_private(path)
    except ConfigError as error:
        raise KeyUnavailableError(str(error), error.hint) from error
    try:
        return parse(untrusted, keygrip, passphrase)
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
