"""The relay's parts put together, and what a connection of gpg gets from them."""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime

import trio

from agentproxy.protocol.messages import ServedKey
from agentproxy.runtime.unixsocket import peer_of
from relay.client import Client
from relay.config import RelayConfig
from relay.conversation import Conversation
from relay.credentials import CredentialStore, credentials_directory
from relay.departures import Departures
from relay.dial import Dialer
from relay.door import Door, Visitor, open_doors
from relay.heads import Heads
from relay.keylist import KeyList
from relay.requestlog import RequestLog
from relay.session import Session, SessionKey
from relay.signing import SigningService
from relay.turnaway import turn_away

__all__ = ["Relay"]

# On the very first start there is no key list until the oracle sends one; a gpg that is quicker waits so long for it.
FIRST_KEYS_SECONDS = 5.0


class Relay:
    """Everything between gpg's sockets and the oracle.

    Args:
        config: read from relay.yaml.

    Attributes:
        connections: how many gpg processes are connected now.
    """

    def __init__(self, config: RelayConfig) -> None:
        self.config = config
        self.started = datetime.now(UTC)
        self.keys = KeyList(config.state / "keys.json")
        self.log = RequestLog(config.last_requests)
        self.heads = Heads(config.state / "heads.json")
        store = CredentialStore(credentials_directory(config.state))
        # Credentials that somebody else has put somewhere else are somebody else's to renew.
        renewable = store if config.token == store.current.token else None
        self.client = Client(config.oracles, Dialer(config, self.heads.all), self.keys.replace, self.heads, renewable)
        self.departures = Departures()
        self.doors = open_doors(config)
        self._service = SigningService(self.client, self.keys, self.log, float(config.deadline_seconds))
        self._session_keys: dict[str, tuple[SessionKey, ...]] = {}  # by the socket's name
        self._session_keys_of = -1  # the key list's count of changes that they were made from
        self.connections = 0

    def load(self) -> None:
        """Take the key list and the heads of the last run."""
        self.keys.load()
        self.heads.load()

    async def serve_gpg(self, stream: trio.SocketStream, door: Door) -> None:
        """One connection of gpg, from greeting to end; which keys it sees is fixed at its start."""
        visitor = Visitor(peer_of(stream), door)
        if objection := door.objection(visitor.peer):
            self._service.refused_here(visitor, objection)
            await turn_away(stream)
            return
        self.connections += 1
        try:
            conversation = Conversation(stream, self._service, self.departures, visitor)
            await conversation.run(functools.partial(self._new_session, door))
        finally:
            self.connections -= 1

    async def _new_session(self, door: Door) -> Session:
        with trio.move_on_after(FIRST_KEYS_SECONDS):
            await self.keys.known()
        return Session(self._keys_for_sessions(door))

    def _keys_for_sessions(self, door: Door) -> Sequence[SessionKey]:
        if self._session_keys_of != self.keys.changes:
            self._session_keys.clear()
            self._session_keys_of = self.keys.changes
        keys = self._session_keys.get(door.name)
        if keys is None:
            keys = self._session_keys[door.name] = tuple(map(_session_key, filter(door.shows, self.keys.served)))
        return keys


def _session_key(key: ServedKey) -> SessionKey:
    return SessionKey(key.facts.keygrip, key.facts.public_key, frozenset(key.facts.hash_algorithms))
