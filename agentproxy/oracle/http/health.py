"""Whether this oracle can sign: what a load balancer and monitoring ask without credentials.

The answer names parts and fixed words, no paths, no runners and nothing of an error's own text; the log has those.
"""

import logging
from datetime import UTC, datetime
from typing import Protocol

import trio

from agentproxy.oracle.http.models import HealthReport
from agentproxy.oracle.registryview import RegistryView
from agentproxy.oracle.signing import SigningService
from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.signer_answers import StatusReport
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import Status

__all__ = ["Health", "StatusSource"]

logger = logging.getLogger(__name__)

OK, UNAVAILABLE = "ok", "unavailable"
# Whoever asks gets an answer as old as this at most: nobody can keep the signer busy with questions.
KEPT_SECONDS = 1.0
SIGNER_SECONDS = 5.0


class StatusSource(Protocol):
    """What we need of the signer; `agentproxy.oracle.signerlink` is the real one."""

    def next_id(self) -> int:
        """An id for the next request."""

    async def request(self, request: ToSigner) -> FromSigner:
        """Ask and wait."""


class Health:
    """Looks at signer, audit log, registry and keys."""

    def __init__(self, signer: StatusSource, service: SigningService, registry: RegistryView) -> None:
        self._signer = signer
        self._service = service
        self._registry = registry
        self._lock = trio.Lock()
        self._report = HealthReport(UNAVAILABLE, {})
        self._taken = float("-inf")

    async def report(self) -> HealthReport:
        """How things are now, or were a moment ago."""
        async with self._lock:
            if trio.current_time() - self._taken > KEPT_SECONDS:
                checks = {**await self._signer_checks(), "registry": self._registry_check(), "keys": self._keys_check()}
                status = OK if set(checks.values()) == {OK} else UNAVAILABLE
                self._report, self._taken = HealthReport(status, checks), trio.current_time()
            return self._report

    async def _signer_checks(self) -> dict[str, str]:
        answer: FromSigner | None = None
        try:
            with trio.move_on_after(SIGNER_SECONDS):
                answer = await self._signer.request(Status(self._signer.next_id()))
        except BackendError as error:
            logger.warning("health: the signer did not say how it is, reason=%s", error)
        if not isinstance(answer, StatusReport):
            return {"signer": "the signer is out of reach", "audit_log": "not known while the signer is out of reach"}
        if not answer.operational:
            logger.warning("health: the signer cannot sign, reason=%s", answer.reason)
            return {"signer": OK, "audit_log": "the audit log cannot be written"}
        return {"signer": OK, "audit_log": OK}

    def _registry_check(self) -> str:
        return OK if self._registry.is_fresh else "the registry is out of reach, or the audit log not yet replayed"

    def _keys_check(self) -> str:
        policy, now = self._service.policy, datetime.now(UTC)
        served = {key.fingerprint: key for key in self._service.keys.values()}
        missing = [name for name, rule in policy.keys.items() if rule.fingerprint not in served]
        expired = [
            name
            for name, rule in policy.keys.items()
            if (key := served.get(rule.fingerprint)) is not None and key.expires is not None and key.expires <= now
        ]
        words = [f"expired: {', '.join(expired)}"] if expired else []
        words += [f"not served: {', '.join(missing)}"] if missing else []
        return "; ".join(words) or OK
