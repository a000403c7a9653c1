"""The oracle's attach socket: relays whose streams come through sshd, brought by `blind-oracle attach`.

sshd has checked the ssh key, and its forced command names the runner; the kernel says which user brings the stream. The
token inside the stream must name the same runner. So the ssh key stands where a client certificate stands elsewhere.
"""

import logging
import pwd

import trio

from agentproxy.oracle.config import AttachConfig
from agentproxy.oracle.doors import Doors, Way
from agentproxy.protocol.attach_messages import FROM_ATTACHER
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.frames import FrameReader
from agentproxy.runtime.streams import FramedStream
from agentproxy.runtime.unixsocket import bind, peer_of

__all__ = ["Attachments"]

logger = logging.getLogger(__name__)

FIRST_FRAME_SECONDS = 10.0  # `attach` speaks at once; who does not, holds a connection for nothing
# Whoever may bring streams may connect, and the peer's uid decides who that is.
SOCKET_MODE = 0o666


class Attachments:
    """Brings streams from the attach socket to the doors.

    Raises:
        ConfigError: a user of the configuration does not exist.
    """

    def __init__(self, config: AttachConfig, doors: Doors) -> None:
        self._config = config
        self._doors = doors
        self._uids = frozenset(map(_uid, config.users))

    def way(self) -> Way:
        """Bind the socket.

        Raises:
            ConfigError: that is not possible.
        """
        return Way([bind(self._config.socket, SOCKET_MODE)], self._greet)

    async def _greet(self, stream: trio.SocketStream) -> None:
        peer = peer_of(stream)
        if peer.uid not in self._uids:
            logger.warning("attach refused, uid=%d pid=%d: not one of attach.users in oracle.yaml", peer.uid, peer.pid)
            return
        try:
            with trio.fail_after(FIRST_FRAME_SECONDS):
                attach = FROM_ATTACHER.decode(await _first_payload(stream))
        except (RemoteProtocolError, trio.BrokenResourceError, trio.TooSlowError) as error:
            logger.warning("attach ended before its first frame, pid=%d reason=%r", peer.pid, str(error))
            return
        await self._doors.attend(FramedStream(stream), attach.address, attach.runner)


async def _first_payload(stream: trio.SocketStream) -> bytes:
    """One frame and not a byte more: what follows is the relay's."""
    reader = FrameReader()
    while (payload := reader.next_payload()) is None:
        untrusted = await stream.receive_some(reader.missing)
        if not untrusted:
            raise RemoteProtocolError("closed")
        reader.receive_data(bytes(untrusted))
    return payload


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as error:
        hint = f"useradd --system --shell /bin/sh {name}, or correct the name in oracle.yaml"
        raise ConfigError(f"attach.users: there is no user {name} on this host", hint) from error
