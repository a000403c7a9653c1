"""What gpg or a client of our own wants signed, as the relay asks an oracle for it."""

import os
from dataclasses import field

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.seal_messages import Seal
from agentproxy.protocol.values import frozen

__all__ = ["SealRequest", "SignRequest", "new_request_id"]


def new_request_id() -> str:
    """16 random bytes as hex: unique without asking anybody, also after the relay's restart."""
    return os.urandom(16).hex()


@frozen
class SignRequest:
    """What gpg wants signed, and what the relay knows about it."""

    id: str
    keygrip: Keygrip
    digest: Digest
    distribution: str | None = None
    claims: Claims | None = None
    socket: str | None = None  # the name of the one that gpg came by
    sent_to: list[str] = field(default_factory=list)  # gets the name of each node that was asked, in order

    def message(self, remaining_ms: int) -> Sign:
        """As it is sent now."""
        return Sign(
            self.id, self.keygrip, self.digest, remaining_ms, self.distribution, self.claims, self.socket
        )  # fmt: skip


@frozen
class SealRequest:
    """A document to be signed, by the state of its hash."""

    id: str
    keygrip: Keygrip
    state: HashState
    distribution: str | None = None
    claims: Claims | None = None
    sent_to: list[str] = field(default_factory=list)  # as in SignRequest

    def message(self, remaining_ms: int) -> Seal:
        """As it is sent now."""
        return Seal(self.id, self.keygrip, self.state, remaining_ms, self.distribution, self.claims)
