"""The relay's sockets: systemd's, known by FileDescriptorName=, or bound by ourselves."""

import logging
import socket
from collections.abc import Mapping, Sequence

import trio

from agentproxy.protocol.values import frozen
from agentproxy.runtime import systemd
from agentproxy.runtime.unixsocket import bind, check_inherited
from relay.config import CONTROL_NAME, RelayConfig
from relay.door import Door

__all__ = ["Sockets", "open_sockets"]

logger = logging.getLogger(__name__)


@frozen
class Sockets:
    """Listeners; whoever gets them closes them."""

    gpg: Sequence[tuple[Door, trio.SocketListener]]
    control: trio.SocketListener
    are_inherited: bool  # those for gpg, from systemd

    def close(self) -> None:
        """Close all, at once. systemd keeps its own copies, with whoever waits in their queues."""
        for _, listener in self.gpg:
            listener.socket.close()
        self.control.socket.close()


def open_sockets(config: RelayConfig, doors: Sequence[Door]) -> Sockets:
    """Take systemd's sockets, if it passed any for gpg, else bind those of relay.yaml.

    Raises:
        ConfigError: a socket cannot be bound, is not what relay.yaml says, or can be replaced by others.
    """
    passed = systemd.listeners({CONTROL_NAME, *(door.name for door in doors)}, {socket.AF_UNIX})
    for one in passed.get(CONTROL_NAME, []):
        check_inherited(one, config.control_socket)
    control = passed[CONTROL_NAME][0] if CONTROL_NAME in passed else bind(config.control_socket, 0o660)
    if not passed.keys() - {CONTROL_NAME}:
        bound = [(door, bind(one.path, one.bits)) for door, one in zip(doors, config.sockets, strict=True)]
        return _looked_at(Sockets(bound, control, are_inherited=False))
    inherited = [(door, listener) for door in doors for listener in _inherited(passed, door)]
    return _looked_at(Sockets(inherited, control, are_inherited=True))


def _looked_at(sockets: Sockets) -> Sockets:
    for door in {door.name: door for door, _ in sockets.gpg}.values():
        door.warn_if_open()
    return sockets


def _inherited(passed: Mapping[str, list[trio.SocketListener]], door: Door) -> list[trio.SocketListener]:
    if door.name not in passed:
        logger.warning("systemd did not pass this socket, nobody can use it, socket=%s path=%s", door.name, door.path)
        return []
    for listener in passed[door.name]:
        check_inherited(listener, door.path)
    return passed[door.name]
