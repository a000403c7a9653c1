"""What `blind-oracle attach` says first on the oracle's attach socket: for whom it brings a stream, and from where.

Behind this one frame the relay's own frames follow, unchanged, both ways.
"""

from typing import ClassVar

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import check_name, check_text
from agentproxy.protocol.values import frozen
from agentproxy.protocol.wire import MessageCodec

__all__ = ["FROM_ATTACHER", "Attach"]

_MOST_ADDRESS = 64  # characters; the longest IPv6 address with a scope and a port is shorter


@frozen
class Attach:
    """A stream whose other end has proven to sshd that it holds this runner's key."""

    tag: ClassVar[str] = "attach"
    runner: str
    address: str  # host:port of the ssh client, as sshd saw it

    def __post_init__(self) -> None:
        check_name(self.runner, "runner")
        check_text(self.address, "address", _MOST_ADDRESS)
        if not self.address:
            raise RemoteProtocolError("address: expected host:port")


FROM_ATTACHER: MessageCodec[Attach] = MessageCodec(Attach)
