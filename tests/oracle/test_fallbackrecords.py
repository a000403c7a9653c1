"""What an oracle makes of the journals of relays that signed by themselves."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agentproxy.oracle.caller import Caller
from agentproxy.oracle.fallbackrecords import RECORDS_AT_ONCE, FallbackRecords
from agentproxy.oracle.policy import RunnerRule
from agentproxy.oracle.signing import SigningService
from agentproxy.protocol.errors import BackendError, LimitedError
from agentproxy.protocol.fields import Claims, Head
from agentproxy.protocol.journal import (
    FIRST_PREV,
    MAX_REPORT_RECORDS,
    JournalOperation,
    JournalRecord,
    Report,
    Reported,
)
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.signer_answers import Recorded
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import Outcome, Record
from tests.oracle.fakesigner import FakeSource
from tests.oracle.samples import MODERN, SERVED, caller, digest, policy

JOURNAL = "ab" * 16
Answer = Reported | LimitedError | BackendError


class Keeper:
    """Writes at once, or fails."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.error: BackendError | None = None

    def next_id(self) -> int:
        return len(self.records) + 1

    def send(self, request: ToSigner, answer: Callable[[FromSigner | BackendError], None]) -> None:
        assert isinstance(request, Record)
        if self.error is not None:
            answer(self.error)
            return
        self.records.append(request)
        answer(Recorded(request.id, Head("node", len(self.records), bytes(32))))

    @property
    def reasons(self) -> list[str]:
        return [record.reason for record in self.records]


class World:
    def __init__(self, *, allowed: bool = True) -> None:
        self.keeper = Keeper()
        self.now = 0.0
        rules = policy(**{"build-01": RunnerRule(("modern",), fallback=allowed)})
        self.service = SigningService(rules, FakeSource(), lambda: self.now)
        self.service.serve_keys(SERVED, Head("node", 1, bytes(32)))
        self.records = FallbackRecords(self.service, self.keeper, lambda: self.now)

    def report(self, *records: JournalRecord, who: Caller | None = None) -> Answer:
        answers: list[Answer] = []
        self.records.take(who or caller(), Report("f" * 32, records), answers.append)
        (answer,) = answers
        return answer


def chain(count: int, **changes: object) -> list[JournalRecord]:
    made: list[JournalRecord] = []
    for number in range(1, count + 1):
        record = JournalRecord(
            JOURNAL,
            number,
            datetime(2026, 11, 22, tzinfo=UTC),
            JournalOperation.SIGN,
            f"{number:032x}",
            made[-1].hash() if made else FIRST_PREV,
            "forced",
            "drill",
            Fingerprint(bytes(20)),
            Keygrip(bytes(20)),
            digest(f"package {number}"),
            bytes(32),
            claims=Claims(uid=7),
        )
        made.append(replace(record, **changes))  # type: ignore[arg-type]  fields of the record
    return made


def test_who_comes_after_a_report_is_told_no_earlier_end_of_the_log() -> None:
    world = World()
    answer = world.report(*chain(3))
    assert isinstance(answer, Reported)
    assert answer.head.sequence == 3
    assert world.service.head == answer.head


def test_each_record_stands_in_the_log_under_its_own_channel_with_all_that_was_reported() -> None:
    world = World()
    (record,) = chain(1)
    answer = world.report(record)
    assert answer == Reported("f" * 32, Head("node", 1, bytes(32)))
    (written,) = world.keeper.records
    assert (written.operation, written.outcome, written.reason) == ("fallback_sign", Outcome.DONE, "")
    assert (written.asserted.channel, written.asserted.runner) == ("fallback", "build-01")
    assert written.asserted.claims == Claims(uid=7)
    assert written.durable
    assert (written.request, written.digest, written.signature_sha256) == (record.request, record.digest, bytes(32))
    assert written.details["journal"] == JOURNAL
    assert written.details["sequence"] == "1"
    assert written.details["hash"] == record.hash().hex()


def test_a_repeated_report_is_answered_and_not_written_again() -> None:
    world = World()
    records = chain(3)
    assert isinstance(world.report(*records), Reported)
    assert isinstance(world.report(*records), Reported)
    assert len(world.keeper.records) == 3
    world = World()  # restarted: it knows nothing, and at least once means twice here
    assert isinstance(world.report(*records), Reported)
    assert world.keeper.reasons == ["", "", ""]


def test_what_is_not_on_disk_is_not_reported() -> None:
    world = World()
    world.keeper.error = BackendError("disk full")
    records = chain(2)
    assert world.report(*records) is world.keeper.error
    world.keeper.error = None
    assert isinstance(world.report(*records), Reported)
    assert len(world.keeper.records) == 2


def test_a_record_that_the_policy_forbids_is_written_with_the_reason_and_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(allowed=False)
    with caplog.at_level(logging.WARNING):
        assert isinstance(world.report(*chain(1)), Reported)
    assert world.keeper.reasons == ["runners.build-01.fallback: the policy does not let it sign by itself"]
    assert "a fallback record should not exist, runner=build-01" in caplog.text
    assert isinstance(world.report(*chain(1), who=caller("stranger")), Reported)
    assert "runners.stranger.fallback" in world.keeper.reasons[1]


def test_our_own_key_on_a_runner_is_named() -> None:
    world = World()
    world.report(*chain(1, keygrip=MODERN.keygrip))
    assert "our own modern" in world.keeper.reasons[0]


@pytest.mark.parametrize("reports", [([0, 1], [3]), ([0], [1], [2]), ([2, 3],)])
def test_a_gap_is_no_offence_since_another_oracle_may_have_what_is_missing(reports: tuple[list[int], ...]) -> None:
    world, records = World(), chain(4)
    for places in reports:
        assert isinstance(world.report(*(records[place] for place in places)), Reported)
    assert set(world.keeper.reasons) == {""}


def test_a_journal_that_was_written_anew_is_named_at_each_record() -> None:
    world = World()
    world.report(*chain(3))
    world.report(*chain(2, reason="another"))
    assert "another record 1 had been reported" in world.keeper.reasons[3]
    world = World()
    first, second = chain(2)
    world.report(first)
    world.report(replace(second, prev=bytes(31) + b"\x01"))
    assert "does not continue the one before it" in world.keeper.reasons[1]


def test_a_flood_of_records_is_slowed_down_and_one_runner_does_not_slow_another() -> None:
    world = World()
    answers = []
    for number in range(RECORDS_AT_ONCE // MAX_REPORT_RECORDS + 2):
        records = [replace(one, journal=f"{number:032x}") for one in chain(MAX_REPORT_RECORDS)]
        answers.append(world.report(*records))
    refused = answers[-1]
    assert isinstance(refused, LimitedError)
    assert refused.retry_after_ms > 0
    assert isinstance(world.report(*chain(1), who=caller("build-02")), Reported)
    world.now += refused.retry_after_ms / 1000
    assert isinstance(world.report(*chain(1)), Reported)
    assert len(world.keeper.records) < RECORDS_AT_ONCE + MAX_REPORT_RECORDS + 2
