"""A socket for gpg as the relay uses it: who may come in, which keys are shown there, what its signatures are for.

The kernel vouches for uid and groups (SO_PEERCRED, SO_PEERGROUPS) as of connect(); nothing here believes the caller.
"""

import grp
import logging
import pwd
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.values import frozen
from agentproxy.runtime.peer import Peer
from relay.config import RelayConfig, SocketConfig

__all__ = ["Door", "Visitor", "open_doors"]

logger = logging.getLogger(__name__)

# What the kernel shows in place of an id that our user namespace does not know; /proc/sys/kernel/overflow{u,g}id.
OVERFLOW_ID = 65534
_STRANGER = (
    f"uid {OVERFLOW_ID} stands for every user whom this relay cannot tell apart: remove PrivateUsers= from its unit, "
    "or map the container's users to users of this host"
)
_FOR_OTHERS = stat.S_IWOTH  # who may write to a socket may connect


@frozen
class Door:
    """One socket, its accounts resolved to numbers."""

    name: str
    path: Path
    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    keys: frozenset[str] = frozenset()  # names; empty: all
    distribution: str | None = None

    def objection(self, peer: Peer) -> str:
        """Why this peer may not use the socket, with what to do about it; empty when it may."""
        if peer.uid == OVERFLOW_ID:
            return _STRANGER
        if not self.users and not self.groups:
            return ""
        if peer.uid in self.users or not self.groups.isdisjoint(peer.groups):
            return ""
        return f"uid {peer.uid} is not among users and groups of the socket {self.name} in relay.yaml"

    def warn_if_open(self) -> None:
        """Say so when this socket, which is there by now, turns nobody away; called once, at the start."""
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & _FOR_OTHERS and not self.users and not self.groups:
            logger.warning(
                "every user of this host may sign, socket=%s mode=0%o: name users or groups", self.name, mode
            )

    def shows(self, key: ServedKey) -> bool:
        """Whether gpg sees this key here."""
        return not self.keys or key.facts.name in self.keys


@frozen
class Visitor:
    """A process that came in, and where."""

    peer: Peer
    door: Door


def open_doors(config: RelayConfig) -> Sequence[Door]:
    """The sockets of relay.yaml in its order. Names of accounts are looked up once, here: that may take a while.

    Raises:
        ConfigError: no such user or group, or one that cannot be told from others.
    """
    return [_open(f"sockets[{number}]", one, config.distribution) for number, one in enumerate(config.sockets)]


def _open(place: str, config: SocketConfig, distribution: str | None) -> Door:
    users = frozenset(_number(f"{place}.users", user, _uid) for user in config.users)
    groups = frozenset(_number(f"{place}.groups", group, _gid) for group in config.groups)
    return Door(
        name=config.name,
        path=config.path,
        users=users,
        groups=groups,
        keys=frozenset(config.keys),
        distribution=config.distribution or distribution,
    )


def _uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def _number(place: str, account: str | int, look_up: Callable[[str], int]) -> int:
    if isinstance(account, int):
        number = account
    else:
        try:
            number = look_up(account)
        except KeyError as error:
            raise ConfigError(f"{place}: no {account!r} on this host", f"getent passwd {account}") from error
    if not 0 <= number < 2**32 - 1 or number == OVERFLOW_ID:
        raise ConfigError(f"{place}: {account} stands for nobody in particular", "name a user or group of its own")
    return number
