"""The relay's parts put together, and what a connection of gpg gets from them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from agentproxy.protocol.key_messages import ServedKey
from agentproxy.runtime.directstream import DirectStream
from agentproxy.runtime.unixsocket import peer_of
from agentproxy.runtime.wakefulness import Wakefulness
from relay.caller import Observer
from relay.client import Client
from relay.config import RelayConfig
from relay.conversation import Conversation, Patience
from relay.credentials import CredentialStore, credentials_directory
from relay.departures import Departures
from relay.dial import Dialer
from relay.door import Door, Visitor, open_doors
from relay.fallbackmode import FallbackMode, FallbackPlaces
from relay.headkeeping import TendedHeads
from relay.keylist import KeyList
from relay.permission import Permission
from relay.requestlog import RequestLog
from relay.session import Session, SessionKey
from relay.signing import SignatureSource, SigningService
from relay.turnaway import turn_away

if TYPE_CHECKING:
    from relay.fallback import Fallback

__all__ = ["Relay"]

# On the very first start there is no key list until the oracle sends one; a gpg that is quicker waits so long for it.
FIRST_KEYS_SECONDS = 5.0


class Relay:
    """Everything between gpg's sockets and the oracle.

    Args:
        config: read from relay.yaml.

    Attributes:
        connections: how many gpg processes are connected now.
        fallback: the host's own signing; None until somebody wants it, since most relays never do.
    """

    def __init__(self, config: RelayConfig) -> None:
        self.config = config
        self.started = datetime.now(UTC)
        self.keys = KeyList(config.state / "keys.json")
        self.log = RequestLog(config.last_requests)
        self.heads = TendedHeads(config.state / "heads.json")
        store = CredentialStore(credentials_directory(config.state))
        # Credentials that somebody else has put somewhere else are somebody else's to renew.
        renewable = store if config.token == store.current.token else None
        self._permission = Permission(FallbackPlaces.of(config.state, config.fallback).permission)
        self.client = Client(
            config.oracles, Dialer(config, self.heads.all), self.keys.replace, self.heads, renewable, self._permission
        )
        self.fallback: Fallback | None = None
        self._fallback_runs = trio.Event()
        self._fallback_made = trio.Lock()  # two would both want the journal
        self.departures = Departures()
        self.doors = open_doors(config)
        self._observer = Observer(config.claims_ms / 1000)
        self.wakefulness = Wakefulness()
        deadline = float(config.deadline_seconds)
        self._service = SigningService(self.client, self.keys, self.log, deadline, self.wakefulness.stay)
        self._session_keys: dict[str, tuple[SessionKey, ...]] = {}  # by the socket's name
        self._session_keys_of = -1  # the key list's count of changes that they were made from
        self._patience = Patience()
        self.connections = 0

    def load(self) -> None:
        """Take the key list and the heads of the last run."""
        self.keys.load()
        self.heads.load()
        self._permission.load()
        places = FallbackPlaces.of(self.config.state, self.config.fallback)
        if self.config.fallback.mode is not FallbackMode.NEVER or places.switch.exists() or places.journal.exists():
            # Before the first connection: it may be one that falls back.
            self._take_fallback(self._new_fallback())

    def _new_fallback(self) -> "Fallback":
        from relay.fallback import Fallback  # noqa: PLC0415  most relays never fall back, and start quicker without

        fallback = Fallback(self.config, self.client, self.keys, self._permission, self.log)
        fallback.load()
        return fallback

    def _take_fallback(self, fallback: "Fallback") -> "Fallback":
        self.fallback = fallback
        self._fallback_runs.set()
        return fallback

    def close(self) -> None:
        """Release what is open; nobody is served any more."""
        if self.fallback is not None:
            self.fallback.close()

    def has_duties(self) -> bool:
        """Whether this relay must not end although no gpg is there."""
        return self.fallback is not None and self.fallback.has_duties()

    async def wanted_fallback(self) -> "Fallback":
        """The host's own signing, for somebody who asks about it or switches it."""
        async with self._fallback_made:
            return self.fallback or self._take_fallback(await trio.to_thread.run_sync(self._new_fallback))

    async def keep_fallback(self) -> None:
        """Do what the host's own signing does by itself, from when somebody wants it until cancelled."""
        await self._fallback_runs.wait()
        if self.fallback is not None:
            await self.fallback.run()

    async def serve_gpg(self, stream: DirectStream, door: Door) -> None:
        """One connection of gpg, from greeting to end; which keys it sees is fixed at its start."""
        visitor = Visitor(peer_of(stream), door)
        if objection := door.objection(visitor.peer):
            self._service.refused_here(visitor, objection)
            await turn_away(stream)
            return
        self.connections += 1
        local = None if self.fallback is None else self.fallback.way(door)
        try:
            if local is None:
                if not self.keys.is_known:
                    with trio.move_on_after(FIRST_KEYS_SECONDS):
                        await self.keys.known()
                conversation = self._conversation(stream, self._service, visitor)
                await conversation.run(Session(self._keys_for_sessions(door)))
            else:
                conversation = self._conversation(stream, local, visitor)
                await conversation.run(local.new_session())
        finally:
            self.connections -= 1

    def _conversation(self, stream: DirectStream, source: SignatureSource, visitor: Visitor) -> Conversation:
        return Conversation(
            stream, source, self.departures, self._observer, visitor, lambda: self.connections == 1, self._patience
        )

    def _keys_for_sessions(self, door: Door) -> Sequence[SessionKey]:
        if self._session_keys_of != self.keys.changes:
            self._session_keys.clear()
            self._session_keys_of = self.keys.changes
        keys = self._session_keys.get(door.name)
        if keys is None:
            keys = self._session_keys[door.name] = tuple(map(_session_key, filter(door.shows, self.keys.served)))
        return keys


def _session_key(key: ServedKey) -> SessionKey:
    return SessionKey(key.facts.keygrip, key.facts.public_key, frozenset(key.facts.hash_algorithms), key.facts.name)
