"""Ports of the loopback interface for a system that somebody tries out."""

import secrets
import socket
from contextlib import ExitStack
from pathlib import Path

from agentproxy.protocol.errors import ConfigError

__all__ = ["free_ports"]

_LOWEST, _LEAST = 16_384, 4096  # the first port of ours, and how many there must be for others not to have each
# The kernel gives these to outgoing connections and to whoever asks for any: one that is free now may be in use when
# we listen, a second later, or when an oracle that was stopped starts again.
_GIVEN_AWAY = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(number: int) -> list[int]:
    """So many different ports that nobody listens on just now.

    Raises:
        ConfigError: there are not so many.
    """
    candidates = secrets.SystemRandom().sample(range(_LOWEST, _first_given_away()), k=64 * number)
    ports: list[int] = []
    with ExitStack() as stack:
        for port in candidates:
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == number:
                return ports
    raise ConfigError(f"no {number} free ports of the loopback interface below {_first_given_away()}")


def _first_given_away() -> int:
    """The first port that the kernel chooses by itself, or its usual one where that leaves us too few."""
    try:
        first = int(_GIVEN_AWAY.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 0
    return first if first >= _LOWEST + _LEAST else 32_768
