"""Messages between relay and oracle; docs/PROTOCOL.md shows each as JSON.

The relay speaks first: `hello`, answered by `welcome` or `rejected`. After that many requests may be in flight;
an answer carries its request's id and may come in any order.
"""

import enum
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Self

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fieldpatterns import (
    DIGEST,
    HEAD,
    KEYGRIP,
    NUMBER,
    OBJECT,
    SIGNATURE,
    TEXT,
    claims_of,
    digest_of,
    head_of,
    signature_of,
)
from agentproxy.protocol.fields import Claims, Head, check_name, check_remaining, check_request_id, check_text
from agentproxy.protocol.fieldtexts import claims_text, digest_text, head_text, signature_text
from agentproxy.protocol.journal import Report, Reported
from agentproxy.protocol.key_messages import SelectedKey, SelectKey, ServedKey
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.seal_messages import Seal, Sealed
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.wire import MessageCodec

__all__ = [
    "FROM_ORACLE",
    "FROM_RELAY",
    "PROTOCOL_VERSION",
    "Certificate",
    "Credentials",
    "Drain",
    "Failed",
    "FailureCode",
    "FetchCertificate",
    "FromOracle",
    "FromRelay",
    "Hello",
    "KeysChanged",
    "Ping",
    "Pong",
    "RefusalCode",
    "Refused",
    "Rejected",
    "RejectionCode",
    "Report",
    "Reported",
    "Seal",
    "Sealed",
    "SelectKey",
    "SelectedKey",
    "ServedKey",
    "Sign",
    "Signed",
    "Welcome",
]

PROTOCOL_VERSION = 1
MAX_PEM = 16_384  # characters; a certificate has about 800
MAX_HEADS = 64  # nodes that one relay can know; far more than anybody runs


class RejectionCode(enum.StrEnum):
    """Why a connection ends: at `hello`, or later, when its credentials no longer hold."""

    VERSION = "version"
    CERTIFICATE_UNKNOWN = "certificate_unknown"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105  a code, not a token
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    TOKEN_OF_ANOTHER_RUNNER = "token_of_another_runner"  # noqa: S105
    RUNNER_DISABLED = "runner_disabled"
    RUNNER_UNKNOWN = "runner_unknown"
    ADDRESS_FORBIDDEN = "address_forbidden"
    NOT_OPERATIONAL = "not_operational"


class RefusalCode(enum.StrEnum):
    """Why the policy said no."""

    FORBIDDEN = "forbidden"
    KEY_UNKNOWN = "key_unknown"
    HASH_FORBIDDEN = "hash_forbidden"
    DISTRIBUTION_FORBIDDEN = "distribution_forbidden"
    DISTRIBUTION_MISSING = "distribution_missing"
    RATE_LIMITED = "rate_limited"
    QUEUE_FULL = "queue_full"
    DEADLINE_PASSED = "deadline_passed"
    ID_REUSED = "id_reused"


class FailureCode(enum.StrEnum):
    """Why there is no signature although the policy allowed it."""

    BACKEND = "backend"
    KEY_UNAVAILABLE = "key_unavailable"
    BAD_SIGNATURE = "bad_signature"
    NOT_OPERATIONAL = "not_operational"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Hello:
    """The relay's first message."""

    tag: ClassVar[str] = "hello"
    protocol: int
    token: str = field(repr=False)  # a secret: it must not reach a log by way of a traceback
    software: str
    heads: tuple[Head, ...] = ()  # the last end of each node's audit log that this relay saw

    def __post_init__(self) -> None:
        check_text(self.token, "token", 256)
        check_text(self.software, "software", 64)
        if len(self.heads) > MAX_HEADS:
            raise RemoteProtocolError(f"heads: at most {MAX_HEADS}")


@dataclass(frozen=True, slots=True)
class Sign:
    """Sign this digest with this key."""

    tag: ClassVar[str] = "sign"
    pattern: ClassVar[str] = (
        rf'"id":{TEXT},"keygrip":{KEYGRIP},"digest":{DIGEST},"remaining_ms":{NUMBER}'
        rf'(?:,"distribution":{TEXT})?(?:,"claims":{OBJECT})?(?:,"socket":{TEXT})?'
    )
    id: str
    keygrip: Keygrip
    digest: Digest
    remaining_ms: int  # how long the caller still waits
    distribution: str | None = None
    claims: Claims | None = None
    socket: str | None = None  # the relay's name of the socket that the caller came by

    def __post_init__(self) -> None:
        check_request_id(self.id)
        if self.distribution is not None:
            check_name(self.distribution, "distribution")
        if self.socket is not None:
            check_name(self.socket, "socket")
        check_remaining(self.remaining_ms)

    def members(self) -> str:
        """The fields as JSON, for `MessageCodec`."""
        distribution = "" if self.distribution is None else f',"distribution":"{self.distribution}"'
        claims = "" if self.claims is None else f',"claims":{claims_text(self.claims)}'
        socket = "" if self.socket is None else f',"socket":"{self.socket}"'
        return (
            f'"id":"{self.id}","keygrip":"{self.keygrip}","digest":{digest_text(self.digest)},'
            f'"remaining_ms":{self.remaining_ms}{distribution}{claims}{socket}'
        )

    @classmethod
    def of_match(cls, found: re.Match[str]) -> Self:
        """Read what `members` writes, for `MessageCodec`."""
        id_, keygrip, algorithm, value, remaining_ms, distribution, claims, socket = found.groups()
        return cls(
            id_,
            Keygrip(bytes.fromhex(keygrip)),
            digest_of(algorithm, value),
            int(remaining_ms),
            distribution,
            None if claims is None else claims_of(claims),
            socket,
        )


@dataclass(frozen=True, slots=True)
class FetchCertificate:
    """Send the OpenPGP certificate that this key stands in."""

    tag: ClassVar[str] = "fetch_certificate"
    id: str
    fingerprint: Fingerprint

    def __post_init__(self) -> None:
        check_request_id(self.id)


@dataclass(frozen=True, slots=True)
class Ping:
    """Is the other side alive; either may ask."""

    tag: ClassVar[str] = "ping"
    id: str

    def __post_init__(self) -> None:
        check_request_id(self.id)


@dataclass(frozen=True, slots=True)
class Pong:
    """Yes."""

    tag: ClassVar[str] = "pong"
    id: str

    def __post_init__(self) -> None:
        check_request_id(self.id)


@dataclass(frozen=True, slots=True)
class Welcome:
    """The oracle's answer to a good `hello`."""

    tag: ClassVar[str] = "welcome"
    protocol: int
    node: str
    runner: str
    software: str
    time: datetime  # the oracle's clock, so that a relay can warn of a wrong one
    keys: tuple[ServedKey, ...]
    max_in_flight: int
    head: Head | None = None
    fallback: bool = False  # the policy lets this runner sign by itself while no oracle can

    def __post_init__(self) -> None:
        check_name(self.node, "node")
        check_name(self.runner, "runner")
        check_text(self.software, "software", 64)


@dataclass(frozen=True, slots=True)
class Rejected:
    """The oracle's answer to a bad `hello`, or its last word when credentials were revoked; the connection ends."""

    tag: ClassVar[str] = "rejected"
    code: RejectionCode


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature, and the end of the audit log that holds its record."""

    tag: ClassVar[str] = "signed"
    pattern: ClassVar[str] = rf'"id":{TEXT},"signature":{SIGNATURE},"head":{HEAD}'
    id: str
    signature: Signature
    head: Head

    def __post_init__(self) -> None:
        check_request_id(self.id)

    def members(self) -> str:
        """The fields as JSON, for `MessageCodec`."""
        return f'"id":"{self.id}","signature":{signature_text(self.signature)},"head":{head_text(self.head)}'

    @classmethod
    def of_match(cls, found: re.Match[str]) -> Self:
        """Read what `members` writes, for `MessageCodec`."""
        id_, algorithm, r, s, node, sequence, value = found.groups()
        return cls(id_, signature_of(algorithm, r, s), head_of(node, sequence, value))


@dataclass(frozen=True, slots=True)
class Refused:
    """The policy said no."""

    tag: ClassVar[str] = "refused"
    id: str
    code: RefusalCode
    reason: str  # for the relay's log: what the caller may know of the rule
    retry_after_ms: int | None = None

    def __post_init__(self) -> None:
        check_request_id(self.id)
        check_text(self.reason, "reason")


@dataclass(frozen=True, slots=True)
class Failed:
    """The policy said yes and yet there is no signature."""

    tag: ClassVar[str] = "failed"
    id: str
    code: FailureCode
    retryable: bool

    def __post_init__(self) -> None:
        check_request_id(self.id)


@dataclass(frozen=True, slots=True)
class Certificate:
    """One part of a certificate: parts come in order, counted from 1."""

    tag: ClassVar[str] = "certificate"
    id: str
    part: int
    parts: int
    data: bytes  # binary OpenPGP, at most 16 KiB a part

    def __post_init__(self) -> None:
        check_request_id(self.id)
        if not 1 <= self.part <= self.parts <= 64:
            raise RemoteProtocolError("certificate: expected parts from 1 to 64")


@dataclass(frozen=True, slots=True)
class KeysChanged:
    """The keys that this runner may use from now on, and whether it may fall back."""

    tag: ClassVar[str] = "keys_changed"
    keys: tuple[ServedKey, ...]
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """This oracle is going away: finish what is in flight and connect elsewhere."""

    tag: ClassVar[str] = "drain"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Fresh credentials for this runner: the answer to a `hello` with a bootstrap token, or a renewal at any time.

    Using them in a `hello` confirms them and ends those that they replace; until then both are good.
    """

    tag: ClassVar[str] = "credentials"
    runner: str
    certificate: str  # PEM, as the next two
    private_key: str = field(repr=False)
    authority: str
    token: str = field(repr=False)
    expires: datetime  # of the one that expires first

    def __post_init__(self) -> None:
        check_name(self.runner, "runner")
        check_text(self.token, "token", 256)
        if not self.token or any(len(pem) > MAX_PEM for pem in (self.certificate, self.private_key, self.authority)):
            raise RemoteProtocolError(f"credentials: expected a token, and PEM of at most {MAX_PEM} characters")


FromRelay = Hello | Sign | Seal | FetchCertificate | SelectKey | Report | Ping | Pong
FromOracle = (
    Welcome
    | Rejected
    | Credentials
    | Signed
    | Sealed
    | Refused
    | Failed
    | Certificate
    | SelectedKey
    | Reported
    | KeysChanged
    | Drain
    | Ping
    | Pong
)

FROM_RELAY: MessageCodec[FromRelay] = MessageCodec(Hello, Sign, Seal, FetchCertificate, SelectKey, Report, Ping, Pong)
FROM_ORACLE: MessageCodec[FromOracle] = MessageCodec(
    Welcome,
    Rejected,
    Credentials,
    Signed,
    Sealed,
    Refused,
    Failed,
    Certificate,
    SelectedKey,
    Reported,
    KeysChanged,
    Drain,
    Ping,
    Pong,
)
