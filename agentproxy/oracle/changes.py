"""Every change of a credential, as a value: what its audit record says, and what the registry does with it.

The record comes first and holds everything, so that a replay restores a change whole. A token stands there as its
SHA-256, which opens nothing: nobody finds 256 random bits by their hash.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar

from agentproxy.oracle.credentials import TokenKind
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.structure import structured
from agentproxy.protocol.unstructure import unstructured_fields
from agentproxy.protocol.values import frozen

__all__ = [
    "CertificateRevoked",
    "Change",
    "CredentialsIssued",
    "Enrolled",
    "Renewed",
    "RunnerAdded",
    "RunnerDisabled",
    "RunnerEnabled",
    "RunnerRemoved",
    "TokenIssued",
    "TokenRevoked",
    "details_of",
    "parse_change",
    "token_id",
]


def token_id(sha256: bytes) -> str:
    """A token's public id: the first 12 hex digits of its SHA-256."""
    return sha256.hex()[:12]


@frozen
class RunnerAdded:
    """A runner that can do nothing yet."""

    operation: ClassVar[str] = "runner_added"
    runner: str

    def __post_init__(self) -> None:
        check_name(self.runner, "runner")


@frozen
class RunnerDisabled:
    """A runner may do nothing, whatever it holds, until it is enabled again."""

    operation: ClassVar[str] = "runner_disabled"
    runner: str


@frozen
class RunnerEnabled:
    """The end of `runner_disabled`."""

    operation: ClassVar[str] = "runner_enabled"
    runner: str


@frozen
class RunnerRemoved:
    """Its tokens go; its certificates' public keys stay revoked for ever."""

    operation: ClassVar[str] = "runner_removed"
    runner: str


@frozen
class CredentialsIssued:
    """A certificate and a token, made together."""

    operation: ClassVar[str] = "credentials_issued"
    runner: str
    token_sha256: bytes
    token_expires: datetime
    certificate_sha256: bytes
    public_key_sha256: bytes
    certificate_expires: datetime
    kind: TokenKind = TokenKind.LASTING
    replaces: str | None = None  # id of the token that ends when these are used


@frozen
class Enrolled:
    """The first use of a token that replaces a bootstrap token, which is revoked with its certificate."""

    operation: ClassVar[str] = "enrolled"
    runner: str
    token: str
    replaces: str


@frozen
class Renewed:
    """The first use of a token that replaces another, which ends with its certificate after an overlap."""

    operation: ClassVar[str] = "renewed"
    runner: str
    token: str
    replaces: str
    ends: datetime


@frozen
class TokenIssued:
    """A token alone, made by the operator; the runner's other tokens end at `ends` at the latest."""

    operation: ClassVar[str] = "token_issued"
    runner: str
    token_sha256: bytes
    token_expires: datetime | None = None
    ends: datetime | None = None


@frozen
class TokenRevoked:
    """A token is dead for ever."""

    operation: ClassVar[str] = "token_revoked"
    token: str


@frozen
class CertificateRevoked:
    """Every certificate with this public key is dead for ever, also one that nobody recorded."""

    operation: ClassVar[str] = "certificate_revoked"
    public_key_sha256: bytes

    def __post_init__(self) -> None:
        if len(self.public_key_sha256) != 32:
            raise RemoteProtocolError("public_key_sha256: expected 32 bytes")


Change = (
    RunnerAdded
    | RunnerDisabled
    | RunnerEnabled
    | RunnerRemoved
    | CredentialsIssued
    | Enrolled
    | Renewed
    | TokenIssued
    | TokenRevoked
    | CertificateRevoked
)
_CLASSES: Mapping[str, type[Change]] = {
    cls.operation: cls
    for cls in (
        RunnerAdded, RunnerDisabled, RunnerEnabled, RunnerRemoved, CredentialsIssued, Enrolled, Renewed, TokenIssued,
        TokenRevoked, CertificateRevoked,
    )
}  # fmt: skip


def details_of(change: Change) -> dict[str, str]:
    """What the record of a change says: hex, times and names."""
    return {name: str(value) for name, value in unstructured_fields(change).items()}


def parse_change(operation: str, details: Mapping[str, str]) -> Change:
    """Read what `details_of` wrote.

    Raises:
        RemoteProtocolError: it says something that we do not know, so nothing behind it can be trusted to be whole.
    """
    cls = _CLASSES.get(operation)
    if cls is None:
        raise RemoteProtocolError(f"unknown change of credentials {operation!r}")
    try:
        return structured(dict(details), cls)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{operation}: {error}") from error
    except (LookupError, TypeError, ValueError) as error:
        raise RemoteProtocolError(f"{operation}: {type(error).__name__}: {error}") from error
