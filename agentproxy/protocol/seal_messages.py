"""Messages about signatures that the signer writes whole, and for which it gets the state of a hash."""

import re
from typing import ClassVar, Self

from agentproxy.protocol.fieldpatterns import (
    ASSERTED,
    HEAD,
    KEYGRIP,
    NUMBER,
    SEAL,
    STATE,
    TEXT,
    WANTED,
    asserted_of,
    claims_of,
    head_of,
    seal_of,
    state_of,
)
from agentproxy.protocol.fields import Asserted, Claims, Head, check_request_id, check_wanted
from agentproxy.protocol.fieldtexts import asserted_text, head_text, seal_text, state_text, wanted_text
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.values import frozen

__all__ = ["Seal", "SealState", "Sealed", "StateSealed"]


@frozen
class Seal:
    """Relay to oracle: sign the document behind this state. Nothing in it can choose type, time or issuer."""

    tag: ClassVar[str] = "seal"
    pattern: ClassVar[str] = rf'"id":{TEXT},"keygrip":{KEYGRIP},"state":{STATE},{WANTED}'
    id: str
    keygrip: Keygrip
    state: HashState
    remaining_ms: int  # how long the caller still waits
    distribution: str | None = None
    claims: Claims | None = None
    socket: str | None = None  # as in `sign`

    def __post_init__(self) -> None:
        check_wanted(self.id, self.remaining_ms, self.distribution, self.socket)

    def members(self) -> str:
        """The fields as JSON, for `MessageCodec`."""
        wanted = wanted_text(self.remaining_ms, self.distribution, self.claims, self.socket)
        return f'"id":"{self.id}","keygrip":"{self.keygrip}","state":{state_text(self.state)},{wanted}'

    @classmethod
    def of_match(cls, found: re.Match[str]) -> Self:
        """Read what `members` writes, for `MessageCodec`."""
        id_, keygrip, algorithm, value, length, rest, remaining_ms, distribution, claims, socket = found.groups()
        return cls(
            id_,
            Keygrip(bytes.fromhex(keygrip)),
            state_of(algorithm, value, length, rest),
            int(remaining_ms),
            distribution,
            None if claims is None else claims_of(claims),
            socket,
        )


@frozen
class Sealed:
    """Oracle to relay: the signature, and the end of the audit log that holds its record."""

    tag: ClassVar[str] = "sealed"
    pattern: ClassVar[str] = rf'"id":{TEXT},"seal":{SEAL},"head":{HEAD}'
    id: str
    seal: DocumentSignature
    head: Head

    def __post_init__(self) -> None:
        check_request_id(self.id)

    def members(self) -> str:
        """The fields as JSON, for `MessageCodec`."""
        return f'"id":"{self.id}","seal":{seal_text(self.seal)},"head":{head_text(self.head)}'

    @classmethod
    def of_match(cls, found: re.Match[str]) -> Self:
        """Read what `members` writes, for `MessageCodec`."""
        id_, *seal, node, sequence, value = found.groups()
        return cls(id_, seal_of(seal), head_of(node, sequence, value))


@frozen
class SealState:
    """Oracle to signer: finish this hash, sign, record, release; answered by `state_sealed` or `not_done`."""

    tag: ClassVar[str] = "seal_state"
    pattern: ClassVar[str] = (
        rf'"id":{NUMBER},"request":{TEXT},"keygrip":{KEYGRIP},"state":{STATE},"asserted":{ASSERTED}'
    )
    id: int
    request: str  # the relay's request id
    keygrip: Keygrip
    state: HashState
    asserted: Asserted

    def __post_init__(self) -> None:
        check_request_id(self.request)

    def members(self) -> str:
        """The fields as JSON, for `MessageCodec`."""
        return (
            f'"id":{self.id},"request":"{self.request}","keygrip":"{self.keygrip}",'
            f'"state":{state_text(self.state)},"asserted":{asserted_text(self.asserted)}'
        )

    @classmethod
    def of_match(cls, found: re.Match[str]) -> Self:
        """Read what `members` writes, for `MessageCodec`."""
        id_, request, keygrip, algorithm, value, length, rest, *asserted = found.groups()
        return cls(
            int(id_),
            request,
            Keygrip(bytes.fromhex(keygrip)),
            state_of(algorithm, value, length, rest),
            asserted_of(asserted),
        )


@frozen
class StateSealed:
    """Signer to oracle: a signature whose record is on disk."""

    tag: ClassVar[str] = "state_sealed"
    pattern: ClassVar[str] = rf'"id":{NUMBER},"seal":{SEAL},"head":{HEAD}'
    id: int
    seal: DocumentSignature
    head: Head  # the record's own sequence and hash

    def members(self) -> str:
        """The fields as JSON, for `MessageCodec`."""
        return f'"id":{self.id},"seal":{seal_text(self.seal)},"head":{head_text(self.head)}'

    @classmethod
    def of_match(cls, found: re.Match[str]) -> Self:
        """Read what `members` writes, for `MessageCodec`."""
        id_, *seal, node, sequence, value = found.groups()
        return cls(int(id_), seal_of(seal), head_of(node, sequence, value))
