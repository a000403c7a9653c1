"""What a relay tells Prometheus; imported only when relay.yaml asks for it, and read when somebody asks."""

import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import trio
from prometheus_client.metrics_core import Metric

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import KeyFacts
from agentproxy.runtime import certificate
from agentproxy.runtime.families import by_name, counter, gauge, histogram, text_of
from relay.connectionstate import Standing
from relay.dial import SOFTWARE
from relay.fallbackkeys import FallbackKeys
from relay.fallbackmode import FallbackPlaces
from relay.service import Relay

__all__ = ["RelayMetrics"]

logger = logging.getLogger(__name__)

_UP = frozenset({Standing.BEST, Standing.WARM, Standing.AILING})
_NEVER = datetime.max.replace(tzinfo=UTC)


class RelayMetrics:
    """Reads everything at each question."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        places = FallbackPlaces.of(relay.config.state, relay.config.fallback)
        self._own = FallbackKeys(places.keys)  # kept: it reads its file, and complains of it, when that has changed

    async def render(self) -> bytes:
        """All of them in the text format."""
        return text_of([*self._requests(), *self._state(), *self._expiries(await self._certificate())])

    async def _certificate(self) -> datetime | None:
        try:
            return await trio.to_thread.run_sync(certificate.file_expires, self._relay.config.certificate)
        except ConfigError as error:
            logger.debug("metrics: the end of the certificate is not known, reason=%s", error)
            return None

    def _requests(self) -> Iterator[Metric]:
        log = self._relay.log
        log.write_late()
        outcomes = by_name({outcome.value: count for outcome, count in log.counts.items()})
        yield counter("relay_requests", "Requests of gpg, by their end.", outcomes, "outcome")
        yield counter("relay_not_signed", "Requests that got no signature, by code.", by_name(log.codes), "code")
        yield counter("relay_moved", "Requests that went to another oracle.", [((), self._relay.client.moved)])
        times = {"request": log.times.report()}
        yield histogram("relay_stage_seconds", "How long gpg waited for a signature.", times)

    def _state(self) -> Iterator[Metric]:
        relay = self._relay
        yield gauge("relay_info", "Version; always 1.", [((SOFTWARE, relay.config.name), 1)], "version", "runner")
        up = [((oracle.address,), float(oracle.standing in _UP)) for oracle in relay.client.oracles]
        # An oracle that is not needed just now is not asked whether it lives.
        spare = [((oracle.address,), float(oracle.standing is Standing.SPARE)) for oracle in relay.client.oracles]
        yield gauge("relay_oracle_up", "1 for each oracle that this relay is connected to.", up, "oracle")
        yield gauge("relay_oracle_spare", "1 for an oracle that is not needed just now.", spare, "oracle")
        connected = float(relay.client.state.connected)
        yield gauge("relay_connected", "1 while some oracle takes requests.", [((), connected)])
        yield gauge("relay_gpg_connections", "gpg processes that are connected.", [((), relay.connections)])
        yield gauge("relay_waiting", "Requests that wait for an answer.", [((), relay.client.waiting)])
        active = float(relay.fallback is not None and relay.fallback.report().active)
        yield gauge("relay_fallback_active", "1 while this host signs with its own key.", [((), active)])

    def _expiries(self, end: datetime | None) -> Iterator[Metric]:
        ends = [(f"key {key.facts.name}", key.facts.expires) for key in self._relay.keys.served]
        ends.append(("certificate of this relay", end))
        # No oracle knows of these, and nobody uses them until there is an outage, perhaps by a switch by hand.
        ends += [(f"own key {key.fingerprint}", key.expires) for key in _last_of_each(self._own.all())]
        seconds = [((what,), moment.timestamp()) for what, moment in ends if moment is not None]
        yield gauge("relay_expiry_timestamp_seconds", "When keys and the certificate end.", seconds, "what")


def _last_of_each(keys: Iterable[KeyFacts]) -> Iterable[KeyFacts]:
    """Of keys of one user ID and kind that which ends last: `fallback setup` adds one, and the old one stays.

    Those of another algorithm or length may be there for whoever cannot verify the first.
    """
    last: dict[tuple[str, str, int], KeyFacts] = {}
    for key in sorted(keys, key=lambda key: key.expires or _NEVER):
        last[key.user_id, key.public_key.algorithm, key.public_key.bits] = key
    return last.values()
