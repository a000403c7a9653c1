"""What a relay says to an oracle; `Ping` and `Pong` either may say.

The messages about seals, keys and journals have modules of their own.
"""

import re
from dataclasses import field
from typing import ClassVar, Self

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fieldpatterns import DIGEST, KEYGRIP, TEXT, WANTED, claims_of, digest_of
from agentproxy.protocol.fields import Claims, Head, check_request_id, check_text, check_wanted
from agentproxy.protocol.fieldtexts import digest_text, wanted_text
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.values import frozen

__all__ = [
    "FetchCertificate",
    "Hello",
    "Ping",
    "Pong",
    "Sign",
]

MAX_HEADS = 64  # nodes that one relay can know; far more than anybody runs


@frozen
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


@frozen
class Sign:
    """Sign this digest with this key."""

    tag: ClassVar[str] = "sign"
    pattern: ClassVar[str] = rf'"id":{TEXT},"keygrip":{KEYGRIP},"digest":{DIGEST},{WANTED}'
    id: str
    keygrip: Keygrip
    digest: Digest
    remaining_ms: int  # how long the caller still waits
    distribution: str | None = None
    claims: Claims | None = None
    socket: str | None = None  # the relay's name of the socket that the caller came by

    def __post_init__(self) -> None:
        check_wanted(self.id, self.remaining_ms, self.distribution, self.socket)

    def members(self) -> str:
        """The fields as JSON, for `MessageCodec`."""
        wanted = wanted_text(self.remaining_ms, self.distribution, self.claims, self.socket)
        return f'"id":"{self.id}","keygrip":"{self.keygrip}","digest":{digest_text(self.digest)},{wanted}'

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


@frozen
class FetchCertificate:
    """Send the OpenPGP certificate that this key stands in."""

    tag: ClassVar[str] = "fetch_certificate"
    id: str
    fingerprint: Fingerprint

    def __post_init__(self) -> None:
        check_request_id(self.id)


@frozen
class Ping:
    """Is the other side alive; either may ask."""

    tag: ClassVar[str] = "ping"
    id: str

    def __post_init__(self) -> None:
        check_request_id(self.id)


@frozen
class Pong:
    """Yes."""

    tag: ClassVar[str] = "pong"
    id: str

    def __post_init__(self) -> None:
        check_request_id(self.id)
