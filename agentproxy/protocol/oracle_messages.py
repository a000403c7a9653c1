"""What an oracle says to a relay; the messages about seals, keys and journals have modules of their own."""

import re
from dataclasses import field
from datetime import datetime
from typing import ClassVar, Self

from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fieldpatterns import HEAD, SIGNATURE, TEXT, head_of, signature_of
from agentproxy.protocol.fields import Head, check_name, check_request_id, check_text
from agentproxy.protocol.fieldtexts import head_text, signature_text
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.values import frozen

__all__ = [
    "Certificate",
    "Credentials",
    "Drain",
    "Failed",
    "KeysChanged",
    "Refused",
    "Rejected",
    "Signed",
    "Welcome",
]

MAX_PEM = 16_384  # characters; a certificate has about 800
MAX_RETRY_MS = 86_400_000  # a limit is by the minute; what is no number of seconds to wait would end a client


@frozen
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


@frozen
class Rejected:
    """The oracle's answer to a bad `hello`, or its last word when credentials were revoked; the connection ends."""

    tag: ClassVar[str] = "rejected"
    code: RejectionCode


@frozen
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


@frozen
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
        if self.retry_after_ms is not None and not 0 <= self.retry_after_ms <= MAX_RETRY_MS:
            raise RemoteProtocolError(f"retry_after_ms: expected 0 to {MAX_RETRY_MS}")


@frozen
class Failed:
    """The policy said yes and yet there is no signature."""

    tag: ClassVar[str] = "failed"
    id: str
    code: FailureCode
    retryable: bool

    def __post_init__(self) -> None:
        check_request_id(self.id)


@frozen
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


@frozen
class KeysChanged:
    """The keys that this runner may use from now on, and whether it may fall back."""

    tag: ClassVar[str] = "keys_changed"
    keys: tuple[ServedKey, ...]
    fallback: bool = False


@frozen
class Drain:
    """This oracle is going away: finish what is in flight and connect elsewhere."""

    tag: ClassVar[str] = "drain"


@frozen
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
