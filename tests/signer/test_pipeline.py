"""What the pipeline promises, with backends and a log of which each test chooses the faults."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import BackendError, KeyUnavailableError
from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.keys import Curve, EccPublicKey, Fingerprint, Keygrip, PublicKey
from agentproxy.protocol.signatures import EddsaSignature, Signature
from agentproxy.protocol.signer_answers import DigestSigned, NotDone, StatusReport
from agentproxy.protocol.signer_messages import FROM_SIGNER, FromSigner, ToSigner
from agentproxy.protocol.signer_requests import Outcome, Status
from agentproxy.signer import pipeline, shortcut
from agentproxy.signer.authority import Authority, create_authority
from agentproxy.signer.keyring import Keyring
from agentproxy.signer.log import AuditLog, LogLimits
from agentproxy.signer.pipeline import Draft, Job, Pipeline
from agentproxy.signer.record import Entry
from agentproxy.signer.requests import Requests
from agentproxy.signer.verifylog import verify
from tests.signer.logs import LIMITS, NODE, records_in
from tests.signer.running import sign_request

BOUND_SECONDS = 20.0


class FakeBackend:
    """One Ed25519 key, and what its signature goes through before it comes out."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = EccPublicKey(Curve.ED25519, self._key.public_key().public_bytes_raw())
        self.error: BackendError | None = None
        self.flip = False  # a fault in memory, processor or device
        self.signatures = 0
        self.gate = threading.Event()
        self.gate.set()

    def keygrips(self) -> frozenset[Keygrip]:
        return frozenset({self.public.keygrip})

    def public_key(self, keygrip: Keygrip) -> PublicKey:
        assert keygrip == self.public.keygrip
        return self.public

    def sign(self, keygrip: Keygrip, digest: Digest) -> Signature:
        assert keygrip == self.public.keygrip
        assert self.gate.wait(BOUND_SECONDS)
        self.signatures += 1
        if self.error is not None:
            raise self.error
        octets = self._key.sign(digest.value)
        if self.flip:
            octets = octets[:40] + bytes([octets[40] ^ 1]) + octets[41:]
        return EddsaSignature(octets[:32], octets[32:])

    def keyring(self) -> Keyring:
        fingerprint, grip = Fingerprint(bytes(20)), self.public.keygrip
        made = datetime(2020, 1, 1, tzinfo=UTC)
        algorithms = (HashAlgorithm.SHA256, HashAlgorithm.SHA512)
        facts = KeyFacts("modern", fingerprint, fingerprint, grip, self.public, algorithms, False, made)
        return Keyring({grip: facts}, self)


class Desk:
    """Requests to a pipeline in this process."""

    def __init__(self, requests: Requests, backend: FakeBackend, log: AuditLog) -> None:
        self.requests, self.backend, self.log = requests, backend, log
        self.grip = backend.public.keygrip

    async def ask(self, *requests: ToSigner) -> list[FromSigner]:
        answers: list[FromSigner] = []
        done = trio.Event()

        def answer(payload: bytes) -> None:
            answers.append(FROM_SIGNER.decode(payload))
            if len(answers) == len(requests):
                done.set()

        # Not known to be quick, whatever was signed before: threads do it.
        self.requests._signing._took_ns.clear()
        self.requests.handle(requests, answer)
        with trio.fail_after(BOUND_SECONDS):
            await done.wait()
        return answers

    async def sign(self, number: int = 0) -> FromSigner:
        (answer,) = await self.ask(sign_request(1, self.grip, number))
        return answer

    async def sign_many(self, count: int) -> list[FromSigner]:
        return await self.ask(*(sign_request(number, self.grip, number) for number in range(count)))


@contextmanager
def _desk(directory: Path, limits: LogLimits = LIMITS) -> Iterator[Desk]:
    backend = FakeBackend()
    with AuditLog.open(directory, NODE, limits) as log:
        made = Pipeline(log, trio.lowlevel.current_trio_token().run_sync_soon, 2)
        authority = Authority.load(*create_authority(NODE, datetime.now(UTC)))
        try:
            yield Desk(Requests(NODE, backend.keyring(), authority, made, directory), backend, log)
        finally:
            backend.gate.set()
            made.close()


async def test_each_signature_has_its_record_before_it_is_released(tmp_path: Path) -> None:
    with _desk(tmp_path) as desk:
        answers = await desk.sign_many(500)
        written = len(records_in(tmp_path))
    assert written == 500
    assert all(isinstance(answer, DigestSigned) for answer in answers)
    heads = [answer.head for answer in answers if isinstance(answer, DigestSigned)]
    assert verify(tmp_path, heads=heads).damage is None


async def test_a_faulty_backends_signature_never_leaves(tmp_path: Path) -> None:
    with _desk(tmp_path) as desk:
        desk.backend.flip = True
        answer = await desk.sign()
        desk.backend.flip = False
        assert isinstance(await desk.sign(), DigestSigned)
    assert isinstance(answer, NotDone)
    assert (answer.code, answer.retryable) == (FailureCode.BAD_SIGNATURE, True)
    record = records_in(tmp_path)[0]
    assert (record["outcome"], record["signature_sha256"]) == ("failed", None)
    assert "wrong" in str(record["reason"])


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (BackendError("device busy"), FailureCode.BACKEND, True),
        (KeyUnavailableError("no such key"), FailureCode.KEY_UNAVAILABLE, False),
    ],
)
async def test_a_failure_is_answered_and_recorded(
    tmp_path: Path, error: BackendError, code: FailureCode, retryable: bool
) -> None:
    with _desk(tmp_path) as desk:
        desk.backend.error = error
        answer = await desk.sign()
    assert isinstance(answer, NotDone)
    assert (answer.code, answer.retryable) == (code, retryable)
    assert records_in(tmp_path)[0]["reason"] == str(error)


async def test_a_bug_in_one_request_does_not_end_the_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with _desk(tmp_path) as desk:
        desk.backend.sign = None  # type: ignore[assignment,method-assign]  # a bug
        for _ in range(5):
            answer = await desk.sign()
            assert isinstance(answer, NotDone)
            assert answer.code is FailureCode.INTERNAL
    assert "a request failed" in caplog.text


async def test_a_full_queue_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_PENDING", 10)
    with _desk(tmp_path) as desk:
        desk.backend.gate.clear()
        refused: list[FromSigner] = []
        for number in range(12):
            desk.requests.handle(
                [sign_request(number, desk.grip, number)], lambda payload: refused.append(FROM_SIGNER.decode(payload))
            )
        await trio.lowlevel.checkpoint()
        assert [answer.id for answer in refused if isinstance(answer, NotDone) and answer.retryable] == [10, 11]
    assert len(records_in(tmp_path)) == 10


async def test_a_status_waits_for_no_record(tmp_path: Path) -> None:
    with _desk(tmp_path) as desk:
        await desk.ask(Status(1))
    assert records_in(tmp_path) == []


async def test_without_a_writable_log_no_key_is_touched(tmp_path: Path) -> None:
    with _desk(tmp_path) as desk:
        await desk.sign()
        descriptor = os.dup(desk.log._pen.descriptor)
        read_only = os.open(next(tmp_path.iterdir()), os.O_RDONLY)
        os.dup2(read_only, desk.log._pen.descriptor)  # every write fails from here on
        answer = await desk.sign()
        assert isinstance(answer, NotDone)
        assert (answer.code, answer.retryable) == (FailureCode.NOT_OPERATIONAL, True)
        made = desk.backend.signatures
        again = await desk.sign()
        assert isinstance(again, NotDone)
        assert desk.backend.signatures == made
        (status,) = await desk.ask(Status(1))
        assert "operational=False" in repr(status)
        os.dup2(descriptor, desk.log._pen.descriptor)
        assert isinstance(await desk.sign(), DigestSigned)
        os.close(descriptor)
        os.close(read_only)
    assert len(records_in(tmp_path)) == 2


class Alone:
    """Requests that come one by one, with a key whose last signature took so long."""

    def __init__(self, desk: Desk, took_ns: int) -> None:
        self.desk = desk
        self.answers: list[FromSigner] = []
        self.answered = trio.Event()
        desk.requests._signing._took_ns[desk.grip] = (took_ns, took_ns)

    def ask(self, number: int) -> int:
        """How many answers there are when `handle` has returned."""
        self.answered = trio.Event()
        self.desk.requests.handle([sign_request(number, self.desk.grip, number)], self._take)
        return len(self.answers)

    def _take(self, payload: bytes) -> None:
        self.answers.append(FROM_SIGNER.decode(payload))
        self.answered.set()


@pytest.mark.parametrize("took_ns", [0, shortcut.LONE_NS - 1])
async def test_a_lone_signature_is_made_at_once_and_recorded(tmp_path: Path, took_ns: int) -> None:
    with _desk(tmp_path) as desk:
        alone = Alone(desk, took_ns)
        assert alone.ask(1) == 1
        await trio.lowlevel.checkpoint()  # whatever another thread had to tell would be told here
        assert len(alone.answers) == 1
        assert len(records_in(tmp_path)) == 1


async def test_a_signature_shows_how_long_its_key_takes(tmp_path: Path) -> None:
    with _desk(tmp_path) as desk:
        assert desk.requests._signing.likely_ns(desk.grip) is None
        began = time.perf_counter_ns()
        await desk.sign()
        took_ns = desk.requests._signing.likely_ns(desk.grip)
        assert took_ns is not None
        assert 0 < took_ns < time.perf_counter_ns() - began


@pytest.mark.parametrize("fails", [False, True])
async def test_an_answer_leaves_behind_its_record_and_counts_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    with _desk(tmp_path) as desk:
        alone, fdatasync = Alone(desk, 0), os.fdatasync

        def synced(descriptor: int) -> None:
            assert alone.answers == []
            if fails:
                raise OSError(errno.EIO, "Input/output error")
            fdatasync(descriptor)

        monkeypatch.setattr(os, "fdatasync", synced)
        alone.ask(1)
        monkeypatch.undo()
        (answer,) = alone.answers
        assert isinstance(answer, NotDone if fails else DigestSigned)
        (status,) = await desk.ask(Status(2))
        assert isinstance(status, StatusReport)
        assert status.signatures == (0 if fails else 1)
    assert len(records_in(tmp_path)) == (0 if fails else 1)


@pytest.mark.parametrize("took_ns", [None, shortcut.LONE_NS])
async def test_a_slow_or_unknown_key_does_not_stop_the_event_loop(tmp_path: Path, took_ns: int | None) -> None:
    with _desk(tmp_path) as desk:
        alone = Alone(desk, 0)
        if took_ns is None:
            desk.requests._signing._took_ns.clear()
        else:
            desk.requests._signing._took_ns[desk.grip] = (took_ns, took_ns)
        desk.backend.gate.clear()
        assert alone.ask(1) == 0
        await trio.lowlevel.checkpoint()
        desk.backend.gate.set()
    assert len(records_in(tmp_path)) == 1


async def test_who_had_to_wait_for_a_lone_signature_makes_the_next_ones_use_both_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _desk(tmp_path) as desk:
        alone = Alone(desk, shortcut.QUICK_NS)
        assert alone.ask(1) == 1
        monkeypatch.setattr("agentproxy.signer.shortcut.WAITED_NS", 10**18)  # whatever comes next has waited
        desk.requests._signing._took_ns[desk.grip] = (shortcut.QUICK_NS, shortcut.QUICK_NS)
        desk.backend.gate.clear()
        assert alone.ask(2) == 1
        desk.backend.gate.set()
        with trio.fail_after(BOUND_SECONDS):
            await alone.answered.wait()
        assert len(alone.answers) == 2


async def test_quick_signatures_that_came_together_are_made_at_once_with_one_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _desk(tmp_path) as desk:
        alone = Alone(desk, 1)
        syncs: list[int] = []
        fdatasync = os.fdatasync

        def noted(descriptor: int) -> None:
            syncs.append(descriptor)
            fdatasync(descriptor)

        monkeypatch.setattr(os, "fdatasync", noted)
        desk.requests.handle([sign_request(number, desk.grip, number) for number in range(8)], alone._take)
        assert [answer.id for answer in alone.answers if isinstance(answer, DigestSigned)] == list(range(8))
        assert len(syncs) == 1
        await trio.lowlevel.checkpoint()
    assert len(records_in(tmp_path)) == 8


async def test_a_record_that_nobody_waits_for_reaches_the_disk_without_other_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "SYNC_SECONDS", 0.05)
    with _desk(tmp_path) as desk:
        assert isinstance(await desk.sign(), DigestSigned)
        await trio.testing.wait_all_tasks_blocked(0.05)  # every thread waits for jobs by now
        synced = threading.Event()
        monkeypatch.setattr(os, "fdatasync", lambda _: synced.set())
        answered: list[bytes] = []
        reply = StatusReport(7, operational=True, reason="", keys=0, signatures=0)
        draft = Draft(lambda _: reply, Entry("sign", Outcome.REFUSED), durable=False)
        desk.requests.pipeline.submit([Job(7, lambda: draft, answered.append, likely_ns=1)])
        assert len(answered) == 1  # on this thread, which went on without the disk
        assert await trio.to_thread.run_sync(synced.wait, BOUND_SECONDS)


async def test_a_quick_signature_is_made_at_once_also_in_a_crowd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentproxy.signer.shortcut.WAITED_NS", 10**18)
    with _desk(tmp_path) as desk:
        alone = Alone(desk, 0)
        for number in range(1, 4):
            desk.requests._signing._took_ns[desk.grip] = (0, 0)
            assert alone.ask(number) == number
            await trio.lowlevel.checkpoint()


@contextmanager
def one_thread(directory: Path) -> Iterator[Pipeline]:
    with AuditLog.open(directory, NODE, LIMITS) as log:
        made = Pipeline(log, trio.lowlevel.current_trio_token().run_sync_soon, 0)
        try:
            yield made
        finally:
            made.close()


class Bell:
    """Jobs with a record each, and who has been answered."""

    def __init__(self) -> None:
        self.rung: list[int] = []
        self.all_rung = trio.Event()

    def job(self, number: int, last: int, likely_ns: int | None, work: Callable[[], object] = lambda: None) -> Job:
        def draft() -> Draft:
            work()
            reply = StatusReport(number, operational=True, reason="", keys=0, signatures=0)
            return Draft(lambda _: reply, Entry("issue", Outcome.DONE))

        def ring(_: bytes) -> None:
            self.rung.append(number)
            if number == last:
                self.all_rung.set()

        return Job(number, draft, ring, likely_ns)


async def test_short_jobs_that_wait_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "GATHER_NS", 10**18)
    monkeypatch.setattr("agentproxy.signer.shortcut.QUICK_NS", 0)  # none is done on the event loop
    syncs: list[int] = []
    with one_thread(tmp_path) as made:
        bell, gate, fdatasync = Bell(), threading.Event(), os.fdatasync

        def noted(descriptor: int) -> None:
            syncs.append(descriptor)
            fdatasync(descriptor)

        monkeypatch.setattr(os, "fdatasync", noted)
        made.submit([bell.job(0, 3, None, lambda: gate.wait(BOUND_SECONDS))])
        made.submit([bell.job(number, 3, 1) for number in range(1, 4)])
        gate.set()
        with trio.fail_after(BOUND_SECONDS):
            await bell.all_rung.wait()
        assert bell.rung == [0, 1, 2, 3]
        assert len(syncs) == 1
    assert len(records_in(tmp_path)) == 4


async def test_nothing_waits_for_a_job_that_may_be_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentproxy.signer.shortcut.QUICK_NS", 0)
    with one_thread(tmp_path) as made:
        bell, first_is_answered = Bell(), threading.Event()
        first = replace(bell.job(0, 1, 1), answer=lambda _: first_is_answered.set())
        made.submit([first, bell.job(1, 1, None, lambda: first_is_answered.wait(BOUND_SECONDS) or pytest.fail("late"))])
        with trio.fail_after(BOUND_SECONDS * 2):
            await bell.all_rung.wait()
        assert first_is_answered.is_set()
    assert len(records_in(tmp_path)) == 2
