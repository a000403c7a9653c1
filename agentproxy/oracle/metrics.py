"""What an oracle tells Prometheus. Everything is read when somebody asks; a signature pays for counters only.

docs/OPERATIONS.md has the list with words, `deployment/prometheus` the alerts.
"""

import logging
from collections.abc import Iterator, Mapping

import trio
from prometheus_client.metrics_core import Metric

from agentproxy.oracle.expiries import CertificatesInUse, credential_expiries, key_expiries
from agentproxy.oracle.reception import SOFTWARE, Reception
from agentproxy.oracle.signerlink import SignerLink
from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.seal_messages import Seal
from agentproxy.protocol.signer_answers import StatusReport
from agentproxy.protocol.signer_requests import Status
from agentproxy.runtime.families import by_name, counter, gauge, histogram, text_of

__all__ = ["OracleMetrics"]

logger = logging.getLogger(__name__)

SIGNER_SECONDS = 2.0  # a scrape that waits longer tells that the signer is away


class OracleMetrics:
    """Reads everything at each question.

    Args:
        reception: what all ways in share.
        signer: asked how it is.
        certificates: which end some day.
    """

    def __init__(self, reception: Reception, signer: SignerLink, certificates: CertificatesInUse) -> None:
        self._reception = reception
        self._service = reception.service
        self._signer = signer
        self._certificates = certificates

    async def render(self) -> bytes:
        """All of them in the text format."""
        status = await self._status()
        return text_of([*self._own(), *self._expiries(), *_of_signer(status)])

    async def _status(self) -> StatusReport | None:
        try:
            with trio.move_on_after(SIGNER_SECONDS):
                answer = await self._signer.request(Status(self._signer.next_id()))
                return answer if isinstance(answer, StatusReport) else None
        except BackendError as error:
            logger.debug("metrics: the signer did not say how it is, reason=%s", error)
        return None

    def _own(self) -> Iterator[Metric]:
        tally, keys = self._service.tally, self._service.keys
        yield gauge(
            "info", "Version of the oracle; always 1.", [((SOFTWARE, self._reception.node), 1)], "version", "node"
        )
        signed = {(key.name, tag): 0 for key in keys.values() for tag in (Sign.tag, Seal.tag)}  # as in `_from_zero`
        for (grip, tag), number in tally.signed.items():
            signed[keys[grip].name if grip in keys else str(grip), tag] = number
        yield counter("signatures", "Signatures that were released.", signed.items(), "key", "operation")
        refused, failed = _from_zero(RefusalCode, tally.refused), _from_zero(FailureCode, tally.failed)
        rejected = _from_zero(RejectionCode, tally.rejected)
        yield counter("refusals", "Requests that the policy refused.", by_name(refused), "code")
        yield counter("failures", "Requests that were allowed and got no signature.", by_name(failed), "code")
        yield counter("rejections", "Connections and requests that were not let in.", by_name(rejected), "code")
        yield counter("http_requests", "Answers of the HTTP API.", by_name(tally.answered), "status")
        hits = tally.refused["rate_limited"]
        yield counter("rate_limit_hits", "Requests above a runner's or token's rate.", [((), hits)])
        waiting = {(priority.value,): number for priority, number in self._service.waiting.items()}
        yield gauge("queue_length", "Requests that wait for their turn at the signer.", waiting.items(), "priority")
        fresh = [((), float(self._reception.registry.is_fresh))]
        yield gauge("registry_fresh", "1 while revocations are seen; without it nothing is signed.", fresh)
        yield histogram(
            "stage_seconds",
            "How long each step of a signature takes; sign and audit happen in the signer.",
            {
                "authn": tally.authn.report(),
                "policy": tally.policy.report(),
                "queue": tally.queue.report(),
                "signer": tally.signer.report(),
            },
        )

    def _expiries(self) -> Iterator[Metric]:
        keys = list(self._service.keys.values())
        credentials = credential_expiries(self._reception.registry.credentials)
        ends = {**key_expiries(keys), **credentials, **self._certificates.ends}
        seconds = {(what,): moment.timestamp() for what, moment in ends.items() if moment is not None}
        yield gauge("expiry_timestamp_seconds", "When keys, certificates and tokens end.", seconds.items(), "what")
        risky = {(key.name,): float(key.can_certify and not key.seal_only) for key in keys}
        yield gauge("certifying_key_accepted", "1 for a key that signs digests and can certify.", risky.items(), "key")


def _from_zero(codes: type[RefusalCode | FailureCode | RejectionCode], counts: Mapping[str, int]) -> dict[str, int]:
    """Counts with every code that there is: of a series that begins with 1, Prometheus sees no increase."""
    return {**dict.fromkeys(codes, 0), **counts}


def _of_signer(status: StatusReport | None) -> Iterator[Metric]:
    operational = status is not None and status.operational
    yield gauge("signer_up", "1 while the signer answers.", [((), float(status is not None))])
    yield gauge("audit_log_writable", "1 while the signer can write its log.", [((), float(operational))])
    if status is None:
        return
    yield gauge("audit_log_bytes", "Size of the audit log's directory.", [((), float(status.audit_bytes))])
    if status.head is not None:
        yield gauge("audit_log_sequence", "The last record.", [((), float(status.head.sequence))])
    if status.last_checkpoint is not None:
        moment = [((), status.last_checkpoint.timestamp())]
        yield gauge("audit_checkpoint_timestamp_seconds", "When the log's end was signed last.", moment)
    times = {"sign": status.sign_times, "audit": status.audit_times}
    known = {stage: report for stage, report in times.items() if report is not None}
    yield histogram("signer_stage_seconds", "The signer's own steps; audit is one write for many records.", known)
