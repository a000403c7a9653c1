"""The oracle's TCP ports: systemd's, known by FileDescriptorName=, or bound by ourselves."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from agentproxy.oracle.config import ListenAddress, parse_address
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime import systemd

__all__ = ["HTTP", "RELAY", "Ports", "open_ports"]

RELAY = "relay"  # FileDescriptorName= of the TLS port for relays
HTTP = "http"  # of the port of the HTTP server
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Ports:
    """Listeners by what is spoken there; whoever gets them closes them."""

    relay: Sequence[trio.SocketListener]
    http: Sequence[trio.SocketListener] = ()  # empty: systemd passed none


async def open_ports(listen: str) -> Ports:
    """Take systemd's sockets; what it did not pass for relays is bound at `listen`, host:port.

    Raises:
        ConfigError: systemd passed another name or kind, or the address is not ours, or taken.
    """
    passed = systemd.listeners({RELAY, HTTP}, {socket.AF_INET, socket.AF_INET6})
    return Ports(passed.get(RELAY) or await _bound(parse_address(listen)), passed.get(HTTP, []))


async def _bound(address: ListenAddress) -> Sequence[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    except OSError as error:
        hint = "ss -tlnp shows who listens" if error.strerror and "in use" in error.strerror else ""
        raise ConfigError(f"listen: cannot use {address.host}:{address.port}: {error}", hint) from error
