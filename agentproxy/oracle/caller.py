"""Who asks: what stays known of a connection after it has proven itself."""

from dataclasses import field

from agentproxy.protocol.fields import Asserted, Claims, check_name
from agentproxy.protocol.values import frozen

__all__ = ["Caller"]


@frozen
class Caller:
    """An authenticated runner on one connection."""

    runner: str
    token: str  # the public id: the first 12 hex digits of the token's SHA-256
    address: str  # host:port, as the connection showed it
    certificate: str | None = None  # SHA-256 of the client certificate, lower-case hex; None: by token only
    channel: str = "relay"
    attached: str | None = None  # the runner whose ssh key stands in the certificate's place
    # What the registry is asked with again while the connection is open; a SHA-256 of 256 random bits.
    token_sha256: bytes = field(default=b"", repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.runner, "runner")

    def asserted(
        self, distribution: str | None = None, claims: Claims | None = None, socket: str | None = None
    ) -> Asserted:
        """What we tell the signer about this caller, for the record.

        Args:
            socket: the relay's name of its socket; the channel becomes relay/NAME.
        """
        return Asserted(
            runner=self.runner,
            token=self.token,
            certificate=self.certificate,
            address=self.address,
            channel=self.channel if socket is None else f"{self.channel}/{socket}",
            distribution=distribution,
            claims=claims,
        )
