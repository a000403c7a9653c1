"""Takes what relays report of signatures that they made by themselves into the audit log, and says what is wrong there.

Nothing is refused for its content: a signature that should not exist must stand in the log above all. What is known of
the journals lives in memory; `agentproxy.signer.journalcheck` finds the same things again, later, from the log alone.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from agentproxy.oracle.caller import Caller
from agentproxy.oracle.limits import Bucket
from agentproxy.oracle.signing import SigningService
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.errors import BackendError, LimitedError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.journal import FIRST_PREV, JournalOperation, JournalRecord, Report, Reported
from agentproxy.protocol.signer_answers import Recorded
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import Outcome, Record
from agentproxy.protocol.times import format_time

__all__ = ["FallbackRecords", "RecordKeeper"]

logger = logging.getLogger(__name__)

# Of one runner. A host that signed by itself for a night reports 10 000 records in a few minutes; one that invents
# records must not keep the signer from signing. Only a report's first record has to have its place in the bucket.
RECORDS_PER_SECOND = 50
RECORDS_AT_ONCE = 500
_MOST_JOURNALS = 2000  # that are remembered; a host has one
_HASHES_KEPT = 256  # of each journal: what a relay repeats after its connection died

Answer = Callable[[Reported | LimitedError | BackendError], None]


class RecordKeeper(Protocol):
    """What we need of the signer; `agentproxy.oracle.signerlink` is the real one."""

    def next_id(self) -> int:
        """An id for the next request."""

    def send(self, request: ToSigner, answer: Callable[[FromSigner | BackendError], None]) -> None:
        """Ask; `answer` is called exactly once."""


@dataclass(slots=True)
class _Known:
    """What we have seen of a journal since our start, and the signer has on disk."""

    hashes: OrderedDict[int, bytes] = field(default_factory=OrderedDict)

    def note(self, record: JournalRecord) -> None:
        self.hashes[record.sequence] = record.hash()
        while len(self.hashes) > _HASHES_KEPT:
            self.hashes.popitem(last=False)


class FallbackRecords:
    """What all relays of one oracle report.

    Args:
        service: whose policy and keys count.
        clock: seconds, never going back.
    """

    def __init__(self, service: SigningService, signer: RecordKeeper, clock: Callable[[], float]) -> None:
        self._service = service
        self._signer = signer
        self._buckets: dict[str, Bucket] = {}
        self._clock = clock
        self._journals: OrderedDict[tuple[str, str], _Known] = OrderedDict()

    def may_fall_back(self, caller: Caller) -> bool:
        """Whether the policy lets this runner sign by itself."""
        rule = self._service.policy.runners.get(caller.runner)
        return rule is not None and rule.fallback

    def take(self, caller: Caller, report: Report, answer: Answer) -> None:
        """Have records written; `answer` is called once, when the disk has all of them, or with why it has not."""
        try:
            self._count(caller, len(report.records))
        except LimitedError as error:
            answer(error)
            return
        known = self._journal(caller, report.records[0].journal)
        new = [record for record in report.records if known.hashes.get(record.sequence) != record.hash()]
        if not new:
            head = self._service.head
            answer(Reported(report.id, head) if head else BackendError("there is no log yet"))
            return
        batch = _Batch(report.id, known, len(new), answer, self._service.note_end)
        for record, trouble in zip(new, [*self._troubles(caller, known, new)], strict=True):
            if trouble:
                logger.warning("a fallback record should not exist, runner=%s reason=%s", caller.runner, trouble)
            request = _request(self._signer.next_id(), caller, record, trouble)
            self._signer.send(request, batch.taker(record))
        logger.info(
            "fallback records, runner=%s journal=%s count=%d", caller.runner, report.records[0].journal, len(new)
        )

    def _count(self, caller: Caller, records: int) -> None:
        bucket = self._buckets.setdefault(caller.runner, Bucket(float(RECORDS_AT_ONCE), self._clock()))
        bucket.fill(self._clock(), RECORDS_PER_SECOND, float(RECORDS_AT_ONCE))
        if bucket.level < 1:
            wait = int((1 - bucket.level) / RECORDS_PER_SECOND * 1000) + 1
            reason = f"more than {RECORDS_PER_SECOND} records of fallback a second"
            raise LimitedError(RefusalCode.RATE_LIMITED, reason, wait)
        bucket.level -= records

    def _journal(self, caller: Caller, journal: str) -> _Known:
        name = (caller.runner, journal)
        if name not in self._journals and len(self._journals) >= _MOST_JOURNALS:
            self._journals.popitem(last=False)
        known = self._journals.setdefault(name, _Known())
        self._journals.move_to_end(name)
        return known

    def _troubles(self, caller: Caller, known: _Known, records: list[JournalRecord]) -> Iterator[str]:
        """For each record why it should not exist, or not be so; empty when all is well."""
        hashes = dict(known.hashes)
        for record in records:
            yield "; ".join([*self._of_policy(caller, record), *_of_chain(record, hashes)])
            hashes[record.sequence] = record.hash()

    def _of_policy(self, caller: Caller, record: JournalRecord) -> Iterator[str]:
        if record.operation is not JournalOperation.SIGN:
            return
        if not self.may_fall_back(caller):
            yield f"runners.{caller.runner}.fallback: the policy does not let it sign by itself"
        ours = None if record.keygrip is None else self._service.keys.get(record.keygrip)
        if ours is not None:
            yield f"the key is our own {ours.name}, which no runner should have"


def _of_chain(record: JournalRecord, hashes: dict[int, bytes]) -> Iterator[str]:
    """What contradicts what we have seen. A gap does not: another oracle may have those records."""
    before = FIRST_PREV if record.sequence == 1 else hashes.get(record.sequence - 1)
    if record.sequence in hashes:
        yield f"the journal was rewritten: another record {record.sequence} had been reported"
    elif before is not None and record.prev != before:
        yield "the journal was rewritten: this record does not continue the one before it"


@dataclass(slots=True)
class _Batch:
    """One report on its way to the disk."""

    id: str
    known: _Known
    waiting: int
    answer: Answer
    note_end: Callable[[Head], None]
    head: Head | None = None
    error: BackendError | None = None

    def taker(self, record: JournalRecord) -> Callable[[FromSigner | BackendError], None]:
        """What the signer's answer for this record goes to."""

        def take(got: FromSigner | BackendError) -> None:
            if isinstance(got, Recorded):
                self.known.note(record)
                self.head = got.head.or_later(self.head)
            else:
                self.error = got if isinstance(got, BackendError) else BackendError(f"the signer sent {got.tag}")
            self.waiting -= 1
            if not self.waiting:
                self._finish()

        return take

    def _finish(self) -> None:
        if self.error is not None or self.head is None:
            logger.warning("fallback records not written, they will come again, reason=%s", self.error)
            self.answer(self.error or BackendError("no record was written"))
        else:
            self.note_end(self.head)
            self.answer(Reported(self.id, self.head))


def _request(id_: int, caller: Caller, record: JournalRecord, trouble: str) -> Record:
    details = {
        "journal": record.journal,
        "sequence": str(record.sequence),
        "time": format_time(record.time),
        "mode": record.mode,
        "reason": record.reason,
        "socket": record.socket,
        "prev": record.prev.hex(),
        "hash": record.hash().hex(),
    }
    if record.fingerprint is not None:
        details["fingerprint"] = str(record.fingerprint)
    return Record(
        id_,
        operation=f"fallback_{record.operation.value}",
        outcome=Outcome.DONE,
        reason=trouble[:1024],
        asserted=replace(caller.asserted(record.distribution, record.claims), channel="fallback"),
        request=record.request,
        keygrip=record.keygrip,
        digest=record.digest,
        details={name: value for name, value in details.items() if value},
        signature_sha256=record.signature_sha256,
    )
