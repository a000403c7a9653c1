"""The audit log's own Ed25519 key: it signs checkpoints and nothing else, and stays in the signer's directory."""

import hashlib
from dataclasses import field
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import write_atomically
from agentproxy.runtime.secretfiles import read_secret, secret_path

__all__ = ["LogKey", "LogPublicKey", "open_log_key", "public_key_path", "read_public_key"]

_HINT = "blind-oracle audit key prints the right one; the log's directory has it as NODE.pub"


@frozen
class LogPublicKey:
    """What auditors hold, on another machine."""

    key: Ed25519PublicKey

    @property
    def id(self) -> bytes:
        """32 bytes: SHA-256 of the key's 32 octets."""
        return hashlib.sha256(self.key.public_bytes_raw()).digest()

    @property
    def pem(self) -> bytes:
        """SubjectPublicKeyInfo (RFC 8410) in PEM, as openssl reads it."""
        return self.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@frozen
class LogKey:
    """What signs checkpoints."""

    private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Make a new key."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> LogPublicKey:
        """The half for auditors."""
        return LogPublicKey(self.private.public_key())


def public_key_path(directory: Path, node: str) -> Path:
    """Where the signer puts the public key: beside the log, for a person to fetch once and keep elsewhere."""
    return directory / f"{node}.pub"


def open_log_key(path: Path) -> LogKey:
    """Read the log's key, or make it when there is none yet.

    Raises:
        ConfigError: it cannot be read or made, others may read it, or it is no Ed25519 key.
    """
    if not secret_path(path).exists():
        return _make(path)
    try:
        private = serialization.load_pem_private_key(read_secret(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: expected an Ed25519 private key in PEM, without a passphrase") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{path}: expected an Ed25519 private key in PEM, without a passphrase")
    return LogKey(private)


def _make(path: Path) -> LogKey:
    made = LogKey.generate()
    pem = made.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        write_atomically(path, pem, 0o600)
    except OSError as error:
        hint = "the signer makes the key of its audit log there, once; audit.key in signer.yaml names another place"
        raise ConfigError(f"{path}: cannot be written: {error.strerror}", hint) from error
    return made


def read_public_key(path: Path) -> LogPublicKey:
    """Read what an auditor kept.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        public = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", _HINT) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: expected an Ed25519 public key in PEM", _HINT) from error
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{path}: expected an Ed25519 public key in PEM", _HINT)
    return LogPublicKey(public)
