"""Doors beside the relays': each has its listeners, and is open for as long as the oracle serves."""

from typing import Protocol

import trio

from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.expiries import CertificatesInUse
from agentproxy.oracle.ports import Passed
from agentproxy.oracle.reception import Reception
from agentproxy.oracle.signerlink import SignerLink
from agentproxy.protocol.errors import ConfigError

__all__ = ["SideDoor", "SideDoors"]


class SideDoor(Protocol):
    """Such as the HTTP API."""

    @property
    def socket_names(self) -> tuple[str, ...]:
        """Which of systemd's sockets it takes."""

    async def open(self, passed: Passed) -> None:
        """Take systemd's sockets, or bind; raises ConfigError."""

    async def serve(self) -> None:
        """Serve until `drain` was called and the last answer is given, and close what `open` has bound."""

    def drain(self) -> None:
        """Accept nobody any more, and finish what is under door."""

    def reload(self) -> None:
        """Take the TLS certificate as it is now; raises ConfigError, and the old one stays."""


class SideDoors:
    """All that the configuration asks for.

    Raises:
        ConfigError: something that it names is missing or wrong.
    """

    def __init__(
        self, config: OracleConfig, reception: Reception, signer: SignerLink, certificates: CertificatesInUse
    ) -> None:
        self.connections = 0  # how many there may be at once
        self._doors: list[SideDoor] = []
        if config.http is not None:
            # Whoever serves relays only need not carry FastAPI and its memory.
            from agentproxy.oracle.http.health import Health  # noqa: PLC0415
            from agentproxy.oracle.http.server import HttpServer  # noqa: PLC0415

            health = Health(signer, reception.service, reception.registry)
            self._doors.append(HttpServer(config.http, config.tls, config.bound_http_address_file, reception, health))
            self.connections += 2 * config.http.max_connections
        if config.metrics is not None:
            from agentproxy.oracle.metrics import OracleMetrics  # noqa: PLC0415  as above
            from agentproxy.oracle.metricsdoor import MetricsDoor  # noqa: PLC0415

            self._doors.append(MetricsDoor(config.metrics, OracleMetrics(reception, signer, certificates)))
            self.connections += MetricsDoor.connections

    async def open(self, passed: Passed) -> None:
        """Open all of them.

        Raises:
            ConfigError: an address cannot be bound, or systemd passed what nobody here takes.
        """
        known = {name for door in self._doors for name in door.socket_names}
        for name in passed.keys() - known:
            raise ConfigError(f"systemd passed a socket named {name}, and oracle.yaml does not speak of it")
        for door in self._doors:
            await door.open(passed)

    async def serve(self) -> None:
        """Serve until `drain` was called and the last answer is given."""
        async with trio.open_nursery() as nursery:
            for door in self._doors:
                nursery.start_soon(door.serve)

    def drain(self) -> None:
        """Accept nobody any more, and finish what is under door."""
        for door in self._doors:
            door.drain()

    def reload(self) -> None:
        """Take the TLS certificate as it is now.

        Raises:
            ConfigError: it is missing or wrong, and the old one stays.
        """
        for door in self._doors:
            door.reload()
