"""Messages about signatures that the signer writes whole, and for which it gets the state of a hash."""

from dataclasses import dataclass
from typing import ClassVar

from agentproxy.protocol.fields import Asserted, Claims, Head, check_name, check_remaining, check_request_id
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.openpgp import DocumentSignature

__all__ = ["Seal", "SealState", "Sealed", "StateSealed"]


@dataclass(frozen=True, slots=True)
class Seal:
    """Relay to oracle: sign the document behind this state. Nothing in it can choose type, time or issuer."""

    tag: ClassVar[str] = "seal"
    id: str
    keygrip: Keygrip
    state: HashState
    remaining_ms: int  # how long the caller still waits
    distribution: str | None = None
    claims: Claims | None = None
    socket: str | None = None  # as in `sign`

    def __post_init__(self) -> None:
        check_request_id(self.id)
        if self.distribution is not None:
            check_name(self.distribution, "distribution")
        if self.socket is not None:
            check_name(self.socket, "socket")
        check_remaining(self.remaining_ms)


@dataclass(frozen=True, slots=True)
class Sealed:
    """Oracle to relay: the signature, and the end of the audit log that holds its record."""

    tag: ClassVar[str] = "sealed"
    id: str
    seal: DocumentSignature
    head: Head

    def __post_init__(self) -> None:
        check_request_id(self.id)


@dataclass(frozen=True, slots=True)
class SealState:
    """Oracle to signer: finish this hash, sign, record, release; answered by `state_sealed` or `not_done`."""

    tag: ClassVar[str] = "seal_state"
    id: int
    request: str  # the relay's request id
    keygrip: Keygrip
    state: HashState
    asserted: Asserted

    def __post_init__(self) -> None:
        check_request_id(self.request)


@dataclass(frozen=True, slots=True)
class StateSealed:
    """Signer to oracle: a signature whose record is on disk."""

    tag: ClassVar[str] = "state_sealed"
    id: int
    seal: DocumentSignature
    head: Head  # the record's own sequence and hash
