"""From a request to its answer: sign, verify, append, fdatasync, and only then release.

Worker threads take jobs from one queue. Whoever finishes while nobody writes becomes the writer: it appends all that is
ready with one fdatasync, again until nothing is, and wakes the event loop once for each batch. So under load one thread
writes while the others sign. What is quick, or alone, crosses no thread at all: `shortcut` says which.
"""

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import trio

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.signer_answers import NotDone
from agentproxy.protocol.signer_messages import FROM_SIGNER, FromSigner
from agentproxy.protocol.timings import Timings
from agentproxy.protocol.values import frozen
from agentproxy.signer.checkpoint import Checkpoint
from agentproxy.signer.credentiallog import WrittenCredentials
from agentproxy.signer.log import AuditLog, LogUnavailableError
from agentproxy.signer.record import Entry
from agentproxy.signer.shortcut import Shortcut

__all__ = ["Answer", "Draft", "Job", "Pipeline", "PipelineFullError"]

logger = logging.getLogger(__name__)

MAX_PENDING = 4096  # jobs; at RSA-4096's speed on two processors that is more than anybody waits for
MAX_BATCH = 256  # records that one fdatasync is kept waiting for
GATHER_NS = 6_000_000  # so long a thread may go on with short jobs before it hands over what it has done
SHORT_NS = 3_000_000  # beside a job that takes longer, what a commit and a wake-up of its own cost is little
SYNC_SECONDS = 1.0  # how long a record that nobody waits for may stay off the disk

Answer = Callable[[bytes], None]
Wake = Callable[[Callable[[], object]], object]


class PipelineFullError(BackendError):
    """More jobs are pending than anybody would wait for."""


@frozen
class Draft:
    """What a job came to, before its record is written."""

    reply: Callable[[Head | None], FromSigner]  # given the record's place; None when there is none
    entry: Entry | None = None  # None: nothing to record
    durable: bool = True  # answer only when the disk has the record


@frozen
class Job:
    """A request on its way."""

    id: int  # of the request on its connection
    work: Callable[[], Draft]  # runs in a worker thread and may block
    answer: Answer  # takes one payload, on the event loop's thread; must not raise
    likely_ns: int | None = None  # how long the work will block, as far as that is known


class Pipeline:
    """Worker threads and the audit log behind them.

    Args:
        log: nobody else may use it until `close`.
        wake: runs a function on the event loop's thread, from any thread: `TrioToken.run_sync_soon`.
        threads: how many may sign at once; one more is started, for the writing.
    """

    def __init__(self, log: AuditLog, wake: Wake, threads: int) -> None:
        self.audit_times = Timings()
        self._log = log
        self._wake = wake
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._pending = 0  # this and the next are used by the event loop's thread only
        self._shortcut = Shortcut()
        self._lock = threading.Lock()  # of the next two
        self._ready: list[tuple[Job, Draft]] = []
        self._writing = False
        self._pen = threading.Lock()  # whoever holds it may call the log
        self._threads = [threading.Thread(target=self._run, name=f"signing-{n}") for n in range(threads + 1)]
        for thread in self._threads:
            thread.start()

    @property
    def head(self) -> Head | None:
        """The last record on disk."""
        return self._log.head

    @property
    def credentials(self) -> WrittenCredentials:
        """The credential records that went through here; those behind `head` may not be on disk."""
        return self._log.credentials

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs that came together; an answer comes later, or before this returns.

        Called on the event loop's thread, which it blocks for what `Shortcut` chooses and one fdatasync, then for what
        threads have made ready meanwhile: less than MAX_PENDING jobs in all, since nobody can submit more.

        Raises:
            PipelineFullError: too many are pending; none of these is taken.
        """
        if self._pending + len(jobs) > MAX_PENDING:
            raise PipelineFullError(f"{MAX_PENDING} requests are pending")
        is_idle, now = self._pending == 0, time.perf_counter_ns()
        chosen = self._shortcut.choose([job.likely_ns for job in jobs], is_idle=is_idle, now=now)
        self._pending += len(jobs)
        here = []
        for job, is_here in zip(jobs, chosen, strict=True):
            if is_here:
                here.append(job)
            else:
                self._jobs.put(job)
        if here:
            self._finish([(job, self._perform(job)) for job in here], _call)
            self._shortcut.ended(time.perf_counter_ns())

    def check_log(self) -> None:
        """Make sure that the log can be written, as far as that can be known. It blocks.

        Raises:
            LogUnavailableError: it cannot.
        """
        if self._log.trouble:
            with self._pen:
                self._log.probe()

    def checkpoint(self) -> Checkpoint:
        """Sign the log's end. It blocks.

        Raises:
            LogUnavailableError: it cannot be written.
        """
        with self._pen:
            return self._log.checkpoint()

    @property
    def last_checkpoint(self) -> datetime | None:
        """When the log's end was signed last; None: never, or without a key."""
        return self._log.last_checkpoint

    def keep_up(self) -> None:
        """Sign the log's end if that is due. It blocks."""
        with self._pen:
            self._log.keep_up()

    def close(self) -> None:
        """Finish what was submitted and end the threads; it blocks until then."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        job = self._next()
        while job is not None:
            done = [(job, self._perform(job))]
            until = time.perf_counter_ns() + GATHER_NS
            try:
                job = self._jobs.get_nowait()
                # Others wait: one commit and one wake-up for several, here and at everybody's peers.
                while job is not None and _is_short(job) and time.perf_counter_ns() < until:
                    done.append((job, self._perform(job)))
                    job = self._jobs.get_nowait()
            except queue.Empty:
                self._finish(done, self._wake)
                job = self._next()
            else:
                self._finish(done, self._wake)

    def _next(self) -> Job | None:
        while True:
            try:
                # With a limit also when all is on the disk: the event loop's thread writes records, and wakes nobody.
                return self._jobs.get(timeout=SYNC_SECONDS)
            except queue.Empty:
                if self._log.unsynced:
                    self._sync()

    def _perform(self, job: Job) -> Draft:
        try:
            return job.work()
        except LogUnavailableError as error:
            return _failed(job.id, FailureCode.NOT_OPERATIONAL, str(error), retryable=True)
        except Exception:  # a bug in one request must not end the thread that others wait for
            logger.exception("a request failed, id=%d", job.id)
            return _failed(job.id, FailureCode.INTERNAL, "a bug: the signer's log shows it", retryable=False)

    def _finish(self, done: Sequence[tuple[Job, Draft]], wake: Wake) -> None:
        with self._lock:
            self._ready += done
            if self._writing:
                return  # whoever writes will take it
            self._writing = True
        while True:
            with self._lock:
                batch, self._ready = self._ready[:MAX_BATCH], self._ready[MAX_BATCH:]
                if not batch:
                    self._writing = False
                    return
            try:
                self._release(self._commit(batch), wake)
            except BaseException:
                with self._lock:
                    self._writing = False  # a bug: others must not wait for us for ever
                raise

    def _commit(self, batch: list[tuple[Job, Draft]]) -> list[tuple[Answer, FromSigner]]:
        """Write the records of a batch; an answer that needs its record comes out only behind this."""
        recorded = [draft for _, draft in batch if draft.entry is not None]
        entries = [draft.entry for draft in recorded if draft.entry is not None]
        began = time.perf_counter()
        try:
            with self._pen:
                places = self._log.append(entries, durable=any(draft.durable for draft in recorded))
        except LogUnavailableError as error:
            logger.error("the audit log cannot be written, nothing is signed: %s", error)  # noqa: TRY400  no bug of ours
            return [(job.answer, _unrecorded(job, draft, error)) for job, draft in batch]
        if entries:
            self.audit_times.observe(time.perf_counter() - began)
        heads = iter(places)
        return [(job.answer, draft.reply(next(heads) if draft.entry is not None else None)) for job, draft in batch]

    def _release(self, answers: list[tuple[Answer, FromSigner]], wake: Wake) -> None:
        payloads = [(answer, FROM_SIGNER.encode(message)) for answer, message in answers]
        try:
            wake(functools.partial(self._deliver, payloads))
        except trio.RunFinishedError:
            logger.warning("answers without anybody to take them, number=%d", len(payloads))

    def _deliver(self, payloads: list[tuple[Answer, bytes]]) -> None:
        self._pending -= len(payloads)
        for answer, payload in payloads:
            answer(payload)

    def _sync(self) -> None:
        try:
            with self._pen:
                self._log.sync()
        except LogUnavailableError as error:
            logger.error("the audit log cannot be written: %s", error)  # noqa: TRY400  no bug of ours


def _is_short(job: Job) -> bool:
    return job.likely_ns is not None and job.likely_ns < SHORT_NS


def _call(function: Callable[[], object]) -> None:
    function()


def _failed(id_: int, code: FailureCode, reason: str, *, retryable: bool) -> Draft:
    return Draft(lambda _: NotDone(id_, code, reason[:1024], retryable))


def _unrecorded(job: Job, draft: Draft, error: LogUnavailableError) -> FromSigner:
    """The answer when the batch is not written: whatever was made for it stays here."""
    if draft.entry is None:
        return draft.reply(None)
    return NotDone(job.id, FailureCode.NOT_OPERATIONAL, str(error)[:1024], retryable=True)
