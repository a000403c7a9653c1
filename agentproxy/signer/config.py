"""What signer.yaml says; `runtime.config.load(path, SignerConfig)` reads it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import check_name

__all__ = ["AuditConfig", "AuthorityConfig", "SignerConfig"]

_MEBIBYTE = 1 << 20


def _own_uid_and_root() -> tuple[int, ...]:
    return tuple(sorted({0, os.geteuid()}))


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """Where the audit log lies and how much of the disk it keeps for itself."""

    directory: Path
    reserve_bytes: int = 16 * _MEBIBYTE  # refusals stop here, so that signatures still have room for their records

    def __post_init__(self) -> None:
        if self.reserve_bytes < 0:
            raise RemoteProtocolError("reserve_bytes: expected 0 or more")


@dataclass(frozen=True, slots=True)
class AuthorityConfig:
    """The built-in CA: it signs the certificates of runners and oracles."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class SignerConfig:
    """The signer's whole configuration."""

    node: str  # this oracle's name, in every record
    socket: Path
    keys_file: Path
    gnupg_home: Path
    audit: AuditConfig
    authority: AuthorityConfig
    passphrases: Path | None = None  # directory of files named like the keys; systemd's credentials go before it
    peer_uids: tuple[int, ...] = field(default_factory=_own_uid_and_root)  # who may connect
    signing_threads: int = 0  # 0: one for each processor

    def __post_init__(self) -> None:
        check_name(self.node, "node")
        if not 0 <= self.signing_threads <= 64:
            raise RemoteProtocolError("signing_threads: expected 0 to 64")
        if any(uid < 0 for uid in self.peer_uids):
            raise RemoteProtocolError("peer_uids: expected uids")
