"""What signer.yaml says; `runtime.config.load(path, SignerConfig)` reads it."""

import os
import pwd
from dataclasses import field
from pathlib import Path

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.values import frozen
from agentproxy.signer.loglimits import LogLimits

__all__ = ["AuditConfig", "AuthorityConfig", "SignerConfig"]

_MEBIBYTE = 1 << 20


def _own_uid_and_root() -> tuple[int, ...]:
    return tuple(sorted({0, os.geteuid()}))


@frozen
class AuditConfig:
    """Where the audit log lies and how much of the disk it keeps for itself."""

    directory: Path
    reserve_bytes: int = 16 * _MEBIBYTE  # refusals stop here, so that signatures still have room for their records
    rotate_bytes: int = 64 * _MEBIBYTE  # a segment is sealed before it becomes larger than this …
    rotate_days: int = 30  # … or when its first record is older than this
    key: Path | None = None  # signs checkpoints, made when it is missing; left out: audit.key beside the authority's

    def __post_init__(self) -> None:
        if self.reserve_bytes < 0:
            raise RemoteProtocolError("reserve_bytes: expected 0 or more")
        if not _MEBIBYTE <= self.rotate_bytes <= 1024 * _MEBIBYTE:
            raise RemoteProtocolError("rotate_bytes: expected 1048576 (1 MiB) to 1073741824 (1 GiB)")
        if not 1 <= self.rotate_days <= 366:
            raise RemoteProtocolError("rotate_days: expected 1 to 366")

    @property
    def limits(self) -> LogLimits:
        """The same for the pen."""
        return LogLimits(self.reserve_bytes, self.rotate_bytes, self.rotate_days * 86_400)


@frozen
class AuthorityConfig:
    """The built-in CA: it signs the certificates of runners and oracles."""

    certificate: Path
    key: Path


@frozen
class SignerConfig:
    """The signer's whole configuration."""

    node: str  # this oracle's name, in every record
    socket: Path
    keys_file: Path
    gnupg_home: Path
    audit: AuditConfig
    authority: AuthorityConfig
    passphrases: Path | None = None  # directory of files named like the keys; systemd's credentials go before it
    peer_uids: tuple[int, ...] = field(default_factory=_own_uid_and_root)  # who may connect …
    peer_users: tuple[str, ...] = ()  # … and the same by name: the oracle's user, where it is not ours
    signing_threads: int = 0  # 0: one for each processor

    @property
    def audit_key(self) -> Path:
        """What signs the audit log's checkpoints."""
        return self.audit.key or self.authority.key.with_name("audit.key")

    @property
    def peers(self) -> frozenset[int]:
        """The uids of all who may connect.

        Raises:
            ConfigError: this system has no such user.
        """
        return frozenset({*self.peer_uids, *map(_uid_of, self.peer_users)})

    def __post_init__(self) -> None:
        check_name(self.node, "node")
        if not 0 <= self.signing_threads <= 64:
            raise RemoteProtocolError("signing_threads: expected 0 to 64")
        if any(uid < 0 for uid in self.peer_uids):
            raise RemoteProtocolError("peer_uids: expected uids")


def _uid_of(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        hint = "systemd-sysusers makes the users of our units"
        raise ConfigError(f"peer_users: there is no user {user!r}", hint) from error
