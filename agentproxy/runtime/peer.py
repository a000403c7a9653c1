"""Who is on the other side of a Unix socket; `unixsocket.peer_of` asks the kernel."""

from agentproxy.protocol.values import frozen

__all__ = ["Peer"]


@frozen
class Peer:
    """The process that connected; its pid may be gone, and used again, by now."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]  # with `gid`, sorted
