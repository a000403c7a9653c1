"""The oracle's sockets: systemd's, known by FileDescriptorName=, or bound by ourselves."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import field

import trio

from agentproxy.oracle.config import ListenAddress, parse_address
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from agentproxy.runtime import systemd

__all__ = [
    "HTTP",
    "HTTP_PROXY",
    "METRICS",
    "RELAY",
    "Passed",
    "Ports",
    "bound",
    "bound_address",
    "open_ports",
    "peer_address",
]

RELAY = "relay"  # FileDescriptorName= of the TLS port for relays
HTTP = "http"  # of the HTTP API's TLS port
HTTP_PROXY = "http-proxy"  # of the Unix socket for a proxy in front of the API
METRICS = "metrics"
BACKLOG = 1024
# Of our packages, by the place in oracle.yaml.
_UNITS = {"listen": "blind-oracle.socket", "http.listen": "blind-oracle-http.socket"}

Passed = Mapping[str, Sequence[trio.SocketListener]]  # systemd's sockets, by FileDescriptorName=


@frozen
class Ports:
    """Listeners by what is spoken there; whoever gets them closes them."""

    relay: Sequence[trio.SocketListener]
    others: Passed = field(default_factory=dict)


async def open_ports(listen: str) -> Ports:
    """Take systemd's sockets; what it did not pass for relays is bound at `listen`, host:port.

    Raises:
        ConfigError: systemd passed another name or kind, or the address is not ours, or taken.
    """
    families = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
    passed = dict(systemd.listeners({RELAY, HTTP, HTTP_PROXY, METRICS}, families))
    for name, kinds in ((RELAY, "TCP"), (HTTP, "TCP"), (HTTP_PROXY, "Unix")):
        for listener in passed.get(name, ()):
            if (listener.socket.family == socket.AF_UNIX) != (kinds == "Unix"):
                raise ConfigError(f"systemd passed a socket named {name} of another kind: expected a {kinds} socket")
    return Ports(passed.pop(RELAY, ()) or await bound(parse_address(listen)), passed)


async def bound(address: ListenAddress, place: str = "listen") -> Sequence[trio.SocketListener]:
    """Listen; with port 0 the system chooses one. `::` is every address of the host, its IPv4 ones as well.

    Args:
        address: where.
        place: the field of oracle.yaml that says so.

    Raises:
        ConfigError: the address is not ours, or taken.
    """
    # To trio "::" is IPv6 only; to whoever writes it, and to systemd, it is every address. With port 0 each family
    # would get a port of its own.
    host = None if address.host == "::" and address.port else address.host
    try:
        return await trio.open_tcp_listeners(address.port, host=host, backlog=BACKLOG)
    except OSError as error:
        hint = "ss -tlnp shows who listens" if error.strerror and "in use" in error.strerror else ""
        hint = hint or systemd.port_hint(error, _UNITS[place])
        raise ConfigError(f"{place}: cannot use {address.host}:{address.port}: {error}", hint) from error


def bound_address(listener: trio.SocketListener) -> str:
    """host:port where a TCP socket listens."""
    host, port, *_ = listener.socket.getsockname()
    return _joined(host, port)


def peer_address(stream: trio.SocketStream) -> str:
    """host:port of the other side of a TCP connection."""
    try:
        host, port, *_ = stream.socket.getpeername()
    except OSError:  # it has gone already
        return "unknown"
    return _joined(host, port)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
