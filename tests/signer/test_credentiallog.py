"""A registry that is older than the log learns what it missed, without access to the log."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.frames import MAX_PAYLOAD
from agentproxy.protocol.signer_answers import (
    CREDENTIAL_OPERATIONS,
    CredentialRecord,
    CredentialRecords,
    DigestSigned,
    NotDone,
)
from agentproxy.protocol.signer_messages import FROM_SIGNER
from agentproxy.protocol.signer_requests import ListCredentialRecords, Outcome, Record
from agentproxy.signer import credentiallog
from agentproxy.signer.credentiallog import WrittenCredentials, read_credentials
from agentproxy.signer.log import AuditLog, LogLimits, LogUnavailableError
from agentproxy.signer.record import Entry
from agentproxy.signer.segment import ZEROS_AHEAD
from tests.signer.conftest import GnupgHome
from tests.signer.logs import LIMITS, NODE, refused, signed
from tests.signer.running import Client, signer, state


def revoked(number: int) -> Entry:
    return Entry("token_revoked", Outcome.DONE, Asserted(channel="cli"), details={"token": f"{number:012x}"})


def write(directory: Path, entries: list[Entry], limits: LogLimits = LIMITS) -> int:
    with AuditLog.open(directory, NODE, limits) as log:
        for entry in entries:
            log.append([entry])
        return 0 if log.head is None else log.head.sequence


def read_all(
    directory: Path, after: int, last: int, written: WrittenCredentials | None = None
) -> Iterator[CredentialRecord]:
    while after < last:
        page = read_credentials(directory, after, last, written)
        assert after < page.through <= last
        yield from page.records
        after = page.through


@pytest.mark.parametrize("limits", [LIMITS, LogLimits(reserve_bytes=0, rotate_bytes=5000)])
@pytest.mark.parametrize("line_bytes", [1 << 20, 2000])
def test_from_any_record_on_exactly_the_later_ones_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: LogLimits, line_bytes: int
) -> None:
    monkeypatch.setattr(credentiallog, "_LINE_BYTES", line_bytes)
    monkeypatch.setattr(credentiallog, "_STEP_BYTES", min(line_bytes, 4000))
    monkeypatch.setattr(credentiallog, "PAGE_BYTES", 3000)
    entries = [revoked(number) if number % 7 == 3 else signed(number) for number in range(1, 60)]
    last = write(tmp_path, entries, limits)
    for after in range(last + 1):
        found = [record.sequence for record in read_all(tmp_path, after, last)]
        assert found == [number for number in range(after + 1, last + 1) if number % 7 == 3]


def test_what_this_process_wrote_is_told_from_memory_as_it_stands_in_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentiallog, "ANSWER_BYTES", 300)  # several answers
    before = write(tmp_path, [revoked(1), signed(2), revoked(3)])
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        for number in range(4, 40):
            failed = Entry("token_revoked", Outcome.FAILED, details={"token": "0" * 12})
            log.append([signed(number), revoked(number), failed] if number % 3 else [signed(number)])
        last = 0 if log.head is None else log.head.sequence
        log.append([Entry("token_issued", Outcome.DONE)], durable=False)  # behind the head
        for after in range(last + 1):
            expected = list(read_all(tmp_path, after, last))
            assert list(read_all(tmp_path, after, last, log.credentials)) == expected
        monkeypatch.setattr(credentiallog, "_opened", pytest.fail)  # no file
        assert len(list(read_all(tmp_path, before, last, log.credentials))) == 24


def test_a_record_that_was_taken_back_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        log.append([signed(1)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(LogUnavailableError):
                log.append([revoked(2)])
        log.append([revoked(3)])
        _, page = log.credentials.part(0, 100)
        assert page is not None
        assert [record.details for record in page.records] == [revoked(3).details]
        assert [record.sequence for record in read_all(tmp_path, 0, 2)] == [2]


@pytest.mark.parametrize("details", [{}, {"token": "0" * 12}, {"a": "\U0001f600" * 1024}])
def test_what_is_told_fits_into_a_frame(tmp_path: Path, details: dict[str, str]) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        log.append([Entry("token_revoked", Outcome.DONE, details=details)] * 1500)
        after = 0
        while after < 1500:
            page = read_credentials(tmp_path, after, 1500, log.credentials)
            answer = CredentialRecords(2**62, NODE, page.records, page.through, 1500)
            assert len(FROM_SIGNER.encode(answer)) <= MAX_PAYLOAD
            assert after < page.through
            after = page.through


def test_of_very_many_the_oldest_are_read_from_the_files_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentiallog, "KEPT_BYTES", 3000)
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        for number in range(1, 60):
            log.append([signed(number), revoked(number)])
        since, page = log.credentials.part(0, 118)
        assert page is None
        assert 90 < since < 118
        for after in (0, 50, since - 1, since, since + 1, 117):
            expected = list(read_all(tmp_path, after, 118))
            assert list(read_all(tmp_path, after, 118, log.credentials)) == expected


def test_only_what_was_done_counts_and_no_text_can_look_like_it(tmp_path: Path) -> None:
    forged = '","operation":"token_revoked","x":"'
    last = write(
        tmp_path,
        [
            Entry("sign", Outcome.REFUSED, Asserted(runner="a", address=forged), reason=forged, details={"a": forged}),
            Entry("token_revoked", Outcome.FAILED, reason="no", details={"token": "0" * 12}),
            Entry("token_revoked_not", Outcome.DONE),
            refused(1),
        ],
    )
    assert list(read_all(tmp_path, 0, last)) == []


def test_what_is_not_yet_on_the_disk_is_not_told(tmp_path: Path) -> None:
    write(tmp_path, [revoked(1), revoked(2)])
    assert [record.details["token"] for record in read_all(tmp_path, 0, 1)] == [f"{1:012x}"]


def test_records_that_are_being_written_are_not_looked_at(tmp_path: Path) -> None:
    last = write(tmp_path, [revoked(1), revoked(2)])
    with next(tmp_path.iterdir()).open("ab") as file:
        file.write((bytes(99) + b'rest"}\n') * 20_000 + bytes(ZEROS_AHEAD))
    assert [record.sequence for record in read_all(tmp_path, 0, last)] == [1, 2]


def test_many_records_come_in_parts_that_fit_into_a_frame(tmp_path: Path) -> None:
    last = write(tmp_path, [revoked(number) for number in range(300)])
    page = read_credentials(tmp_path, 0, last)
    assert page.through < last
    assert len(list(read_all(tmp_path, 0, last))) == 300


def test_a_log_that_does_not_reach_back_or_forward_enough_is_said(tmp_path: Path) -> None:
    last = write(tmp_path, [signed(number) for number in range(40)], LogLimits(reserve_bytes=0, rotate_bytes=5000))
    with pytest.raises(BackendError, match="the log ends with record 40, before record 41"):
        read_credentials(tmp_path, 41, last)
    sorted(tmp_path.glob("*.jsonl"))[0].unlink()
    with pytest.raises(BackendError, match="record 1 was archived"):
        read_credentials(tmp_path, 0, last)


def test_a_signer_tells_it_on_its_socket(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory, signer(directory), Client(directory) as client:
        for operation in sorted(CREDENTIAL_OPERATIONS):
            client.ask(Record(client.next_id(), operation, Outcome.DONE, "", Asserted(), details={"runner": "a"}))
        answer = client.ask(ListCredentialRecords(client.next_id(), 0))
        assert isinstance(answer, CredentialRecords)
        assert [record.operation for record in answer.records] == sorted(CREDENTIAL_OPERATIONS)
        assert answer.through == answer.last == 1 + len(CREDENTIAL_OPERATIONS)  # one for its start
        later = client.ask(ListCredentialRecords(client.next_id(), 10_000))
        assert isinstance(later, NotDone)
        assert not later.retryable


def test_a_record_that_is_too_long_to_be_told_ends_one_connection_and_not_the_signer(home: GnupgHome) -> None:
    """As a version without a limit for details left it in the log."""
    with state(home, "ed25519") as directory:
        write(directory / "audit", [Entry("runner_added", Outcome.DONE, details={"a": "\u00e9" * 20_000})])
        with signer(directory):
            with Client(directory) as client:
                assert client.ask(ListCredentialRecords(client.next_id(), 0)) is None
            with Client(directory) as client:
                assert isinstance(client.sign(home.grips["ed25519"]), DigestSigned)
