"""The relay's parts put together: what a connection of gpg gets, and what the control socket tells."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime

import trio

from agentproxy.protocol.messages import ServedKey
from relay.client import Client
from relay.config import RelayConfig
from relay.control import Answer, ControlTable
from relay.conversation import converse
from relay.dial import SOFTWARE, Dialer
from relay.keylist import KeyList
from relay.requestlog import RequestLog
from relay.session import Session, SessionKey
from relay.signing import SigningService
from relay.status import CertificateReport, ControlRequest, KeyReport, StatusReport

__all__ = ["Relay"]

# Together, so that `setup` answers within the patience of whoever types it.
CERTIFICATES_SECONDS = 30.0

# On the very first start there is no key list until the oracle sends one; a gpg that is quicker waits so long for it.
FIRST_KEYS_SECONDS = 5.0


class Relay:
    """Everything between gpg's sockets and the oracle.

    Args:
        config: read from relay.yaml.
    """

    def __init__(self, config: RelayConfig) -> None:
        self._config = config
        self._started = datetime.now(UTC)
        self._keys = KeyList(config.state / "keys.json")
        self._log = RequestLog(config.last_requests)
        self.client = Client(config.oracles, Dialer(config), self._keys.replace)
        self._service = SigningService(
            self.client, self._keys, self._log, float(config.deadline_seconds), config.distribution
        )
        self._session_keys: tuple[SessionKey, ...] = ()
        self._session_keys_of = -1  # the key list's count of changes that they were made from
        self._connections = 0

    def load(self) -> None:
        """Take the key list of the last run."""
        self._keys.load()

    async def serve_gpg(self, stream: trio.SocketStream) -> None:
        """One connection of gpg, from greeting to end; which keys it sees is fixed at its start."""
        self._connections += 1
        try:
            await converse(stream, self._new_session, self._service)
        finally:
            self._connections -= 1

    async def _new_session(self) -> Session:
        with trio.move_on_after(FIRST_KEYS_SECONDS):
            await self._keys.known()
        return Session(self._keys_for_sessions())

    def _keys_for_sessions(self) -> Sequence[SessionKey]:
        if self._session_keys_of != self._keys.changes:
            self._session_keys = tuple(map(_session_key, self._keys.served))
            self._session_keys_of = self._keys.changes
        return self._session_keys

    @property
    def control_table(self) -> ControlTable:
        """What the control socket answers."""
        return {"status": self._status, "certificates": self._certificates}

    async def _status(self, request: ControlRequest) -> Answer:
        await trio.lowlevel.checkpoint()
        return StatusReport(
            runner=self._config.name,
            software=SOFTWARE,
            pid=os.getpid(),
            started=self._started,
            connection=self.client.state,
            sockets=self._sockets(),
            gpg_connections=self._connections,
            waiting=self.client.waiting,
            counts={outcome.value: count for outcome, count in self._log.counts.items()},
            keys=tuple(map(_key_report, self._keys.served)),
            heads=tuple(self.client.heads.values()),
            last=tuple(self._log.last(request.last)),
        )

    async def _certificates(self, _: ControlRequest) -> Answer:
        certificates: dict[str, bytes] = {}
        with trio.move_on_after(CERTIFICATES_SECONDS):
            for key in self._keys.served:
                if str(key.facts.primary) not in certificates:
                    certificates[str(key.facts.primary)] = await self.client.certificate(key.facts.fingerprint)
        return CertificateReport(tuple(certificates.values()), self._sockets())

    def _sockets(self) -> tuple[str, ...]:
        return tuple(str(one.path) for one in self._config.sockets)


def _session_key(key: ServedKey) -> SessionKey:
    return SessionKey(key.facts.keygrip, key.facts.public_key, frozenset(key.facts.hash_algorithms))


def _key_report(key: ServedKey) -> KeyReport:
    facts = key.facts
    return KeyReport(
        name=facts.name,
        key_type=key.key_type,
        keygrip=facts.keygrip,
        fingerprint=facts.fingerprint,
        primary=facts.primary,
        user_id=facts.user_id,
        algorithm=facts.public_key.algorithm,
        expires=facts.expires,
    )
