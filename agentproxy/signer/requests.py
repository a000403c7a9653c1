"""What the signer can be asked, one function each, and the table that leads there.

Whatever the oracle says about keys is checked again, against the signer's own keys file.
"""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.errors import (
    BackendError,
    RemoteProtocolError,
)
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.seal_messages import SealState
from agentproxy.protocol.signer_answers import (
    CheckpointTaken,
    CredentialRecords,
    HeadCompared,
    Issued,
    Keys,
    NotDone,
    Recorded,
    StatusReport,
)
from agentproxy.protocol.signer_messages import FROM_SIGNER, FromSigner, ToSigner
from agentproxy.protocol.signer_requests import (
    CompareHead,
    Issue,
    ListCredentialRecords,
    ListKeys,
    Outcome,
    Record,
    SignDigest,
    Status,
    TakeCheckpoint,
)
from agentproxy.protocol.times import format_time
from agentproxy.signer.authority import Authority
from agentproxy.signer.credentiallog import read_credentials
from agentproxy.signer.headcheck import misfit
from agentproxy.signer.keyring import Keyring
from agentproxy.signer.log import LogUnavailableError
from agentproxy.signer.pipeline import Answer, Draft, Job, Pipeline, PipelineFullError
from agentproxy.signer.record import Entry
from agentproxy.signer.signing import Signing

__all__ = ["Requests"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Requests:
    """Everything that requests need. One object serves all connections.

    Attributes:
        keyring: replaced whole by a reload.
    """

    node: str
    keyring: Keyring
    authority: Authority
    pipeline: Pipeline
    audit: Path  # the log's directory, for reading
    _signing: Signing = field(init=False)

    def __post_init__(self) -> None:
        self._signing = Signing(self.pipeline)

    def handle(self, requests: Sequence[ToSigner], answer: Answer) -> None:
        """Start requests that came together; `answer` is called with each reply's payload, perhaps before we return."""
        arrived = time.perf_counter_ns()
        try:
            self.pipeline.submit([self._job(request, arrived, answer) for request in requests])
        except PipelineFullError as error:
            for request in requests:
                answer(FROM_SIGNER.encode(NotDone(request.id, FailureCode.BACKEND, str(error), retryable=True)))

    def _job(self, request: ToSigner, arrived: int, answer: Answer) -> Job:
        likely_ns = self._signing.likely_ns(request.keygrip) if isinstance(request, SignDigest | SealState) else None
        return Job(request.id, lambda: self._draft(request, arrived), answer, likely_ns)

    def note(self, entry: Entry) -> None:
        """Record something that nobody asked for and nobody waits for."""
        reply = StatusReport(0, operational=True, reason="", keys=0, signatures=0)
        try:
            self.pipeline.submit([Job(0, lambda: Draft(lambda _: reply, entry), lambda _: None)])
        except PipelineFullError:
            logger.warning("not recorded: %s", entry.operation)

    def _draft(self, request: ToSigner, arrived: int) -> Draft:  # noqa: PLR0911  one return for each request
        """Do a request's work, in a worker thread. `TO_SIGNER` decodes nothing but these."""
        match request:
            case SignDigest() | SealState():
                return self._signing.draft(request, self.keyring, arrived)
            case Record():
                return _record(request, self.keyring.facts)
            case Issue():
                return self._issue(request)
            case ListCredentialRecords():
                return self._list_credentials(request)
            case ListKeys():
                facts = tuple(self.keyring.facts.values())
                return Draft(lambda _: Keys(request.id, self.node, facts, self.pipeline.head))
            case CompareHead():
                return self._compare(request)
            case TakeCheckpoint():
                return self._checkpoint(request.id)
            case Status():
                return Draft(functools.partial(self._status, request.id, self._trouble(), _bytes_in(self.audit)))

    def _issue(self, request: Issue) -> Draft:
        entry = Entry("issue", Outcome.DONE, request.asserted, details=_issue_details(request))
        self.pipeline.check_log()
        try:
            issued = self.authority.issue(
                request.kind, request.common_name, request.hosts, request.days, datetime.now(UTC)
            )
        except RemoteProtocolError as error:
            refused = replace(entry, outcome=Outcome.REFUSED, reason=str(error)[:1024])
            reply = NotDone(request.id, FailureCode.BACKEND, str(error)[:1024], retryable=False)
            return Draft(lambda _: reply, refused, durable=False)
        answer = Issued(
            request.id,
            issued.certificate.decode("ascii"),
            issued.private_key.decode("ascii"),
            self.authority.certificate.decode("ascii"),
            issued.public_key_sha256,
            issued.expires,
        )
        details = {**entry.details, "public_key_sha256": issued.public_key_sha256.hex()}
        entry = replace(entry, details={**details, "expires": format_time(issued.expires)})
        return Draft(lambda head: answer if head is not None else _recorded(request.id, None), entry)

    def _list_credentials(self, request: ListCredentialRecords) -> Draft:
        head = self.pipeline.head
        last = 0 if head is None else head.sequence
        try:
            page = read_credentials(self.audit, request.after, last, self.pipeline.credentials)
        except (BackendError, RemoteProtocolError) as error:
            reply: FromSigner = NotDone(request.id, FailureCode.NOT_OPERATIONAL, str(error)[:1024], retryable=False)
        else:
            reply = CredentialRecords(request.id, self.node, page.records, page.through, last)
        return Draft(lambda _: reply)

    def _compare(self, request: CompareHead) -> Draft:
        try:
            reason = misfit(self.audit, request.head, self.pipeline.head)
        except BackendError as error:
            reply: FromSigner = NotDone(request.id, FailureCode.NOT_OPERATIONAL, str(error)[:1024], retryable=False)
        else:
            reply = HeadCompared(request.id, fits=not reason, reason=reason)
        return Draft(lambda _: reply)

    def _checkpoint(self, id_: int) -> Draft:
        taken = self.pipeline.checkpoint()
        reply = CheckpointTaken(id_, taken.head, taken.time, taken.key, taken.signature)
        return Draft(lambda _: reply)

    def _trouble(self) -> str:
        try:
            self.pipeline.check_log()
        except LogUnavailableError as error:
            return str(error)[:1024]
        return ""

    def _status(self, id_: int, trouble: str, audit_bytes: int, _: Head | None) -> FromSigner:
        return StatusReport(
            id_,
            not trouble,
            trouble,
            len(self.keyring.facts),
            self._signing.signatures,
            self.pipeline.head,
            self._signing.times.report(),
            self.pipeline.audit_times.report(),
            audit_bytes,
            self.pipeline.last_checkpoint,
        )


def _bytes_in(directory: Path) -> int:
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # archived meanwhile
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _record(request: Record, facts: Mapping[Keygrip, KeyFacts]) -> Draft:
    key = None if request.keygrip is None else facts.get(request.keygrip)
    entry = Entry(
        request.operation,
        request.outcome,
        request.asserted,
        reason=request.reason,
        request=request.request,
        key=None if key is None else key.name,
        fingerprint=None if key is None else key.fingerprint,
        keygrip=request.keygrip,
        digest=request.digest,
        signature_sha256=request.signature_sha256,
        details=request.details,
    )
    return Draft(functools.partial(_recorded, request.id), entry, request.durable)


def _recorded(id_: int, head: Head | None) -> FromSigner:
    if head is None:
        return NotDone(id_, FailureCode.NOT_OPERATIONAL, "left out: the disk is nearly full", retryable=False)
    return Recorded(id_, head)


def _issue_details(request: Issue) -> dict[str, str]:
    hosts = ",".join(request.hosts)[:1024]
    return {"kind": request.kind.value, "common_name": request.common_name, "hosts": hosts, "days": str(request.days)}
