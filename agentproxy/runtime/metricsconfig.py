"""Where a daemon tells its metrics, apart from the telling, which needs h11."""

from pathlib import Path

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = ["MetricsConfig"]


@frozen
class MetricsConfig:
    """Where metrics are told: exactly one of the two."""

    listen: str | None = None  # host:port, a loopback address: they name runners and keys
    socket: Path | None = None  # a Unix socket

    def __post_init__(self) -> None:
        if (self.listen is None) == (self.socket is None):
            raise RemoteProtocolError("expected listen or socket")
        if self.listen is not None:
            self.address  # noqa: B018  its form

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`.

        Raises:
            RemoteProtocolError: another form, or not a loopback address.
        """
        from ipaddress import ip_address  # noqa: PLC0415  most relays tell no metrics, and start quicker without

        host, colon, port = (self.listen or "").rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            is_loopback = ip_address(host).is_loopback
        except ValueError:
            is_loopback = False
        if not (colon and is_loopback and port.isascii() and port.isdecimal() and int(port) <= 65535):
            raise RemoteProtocolError(f"expected a loopback address such as 127.0.0.1:9464, got {self.listen!r}")
        return host, int(port)
