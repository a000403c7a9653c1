"""What the registry knows of runners' credentials, as one immutable picture.

Secrets are not in it: a token is its SHA-256. Looking that up in a dictionary tells a timing attacker nothing of
use, because a guess's hash is not the guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

__all__ = ["CertificateEntry", "Credentials", "RunnerEntry", "TokenEntry"]


@dataclass(frozen=True, slots=True)
class RunnerEntry:
    """A runner that somebody added."""

    name: str
    created: datetime
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """A token that was given out."""

    sha256: bytes = field(repr=False)  # 32 bytes
    id: str  # public: the first 12 hex digits of the SHA-256
    runner: str
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    last_used: datetime | None = None


@dataclass(frozen=True, slots=True)
class CertificateEntry:
    """A client certificate that was issued."""

    sha256: bytes  # 32 bytes, of the DER form
    public_key_sha256: bytes  # 32 bytes, of the SubjectPublicKeyInfo: what revocation names
    runner: str
    created: datetime
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything, at one generation of the registry."""

    generation: int = 0
    runners: Mapping[str, RunnerEntry] = field(default_factory=dict)
    tokens: Mapping[bytes, TokenEntry] = field(default_factory=dict)  # by SHA-256
    certificates: Mapping[bytes, CertificateEntry] = field(default_factory=dict)  # by SHA-256
    revoked_public_keys: frozenset[bytes] = frozenset()  # SHA-256: whatever certificate holds them
