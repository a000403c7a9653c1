"""A journal's record and its line."""

import contextlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.journal import (
    FIRST_PREV,
    MAX_REPORT_RECORDS,
    JournalOperation,
    JournalRecord,
    Report,
    parse_line,
)
from agentproxy.protocol.keys import Fingerprint, Keygrip

PAGE = (Path(__file__).parent.parent.parent / "docs" / "PROTOCOL.md").read_text()
SWITCH = JournalRecord(
    "ab" * 16, 1, datetime(2026, 11, 22, tzinfo=UTC), JournalOperation.SWITCH, "0" * 32, FIRST_PREV, "forced", "drill"
)
SIGN = JournalRecord(
    "ab" * 16,
    2,
    datetime(2026, 11, 22, tzinfo=UTC),
    JournalOperation.SIGN,
    "1" * 32,
    SWITCH.hash(),
    "forced",
    "drill",
    Fingerprint(bytes(20)),
    Keygrip(bytes(20)),
    Digest(HashAlgorithm.SHA256, bytes(32)),
    bytes(32),
    "default",
    "el9",
    Claims(uid=1000, commands=("gpg -b",)),
)


def test_the_lines_on_the_page_are_a_chain() -> None:
    (shown,) = re.findall(r"^```journal\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    prev = FIRST_PREV
    for number, line in enumerate(shown.encode().splitlines(), 1):
        record = parse_line(line)
        assert (record.sequence, record.prev) == (number, prev)
        prev = record.hash()


@pytest.mark.parametrize("record", [SWITCH, SIGN])
def test_a_line_is_read_as_the_record_that_wrote_it(record: JournalRecord) -> None:
    assert parse_line(record.line()) == record


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b'":"', b'": "', 1),
        lambda line: line + b" ",
        lambda line: line.replace(b'"drill"', b'"\\u0064rill"'),
        lambda line: line.replace(b'"mode"', b'"more"'),
        lambda line: line[:-1],
        lambda line: line.replace(b'"sequence":2', b'"sequence":02'),
    ],
)
def test_every_other_spelling_is_refused(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(RemoteProtocolError):
        parse_line(damage(SIGN.line()))


@given(st.binary(max_size=200))
def test_any_line_is_a_record_or_refused(line: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert parse_line(line).line() == line


def test_a_signature_without_its_key_or_digest_is_no_record() -> None:
    for changes in ({"keygrip": None}, {"digest": None}, {"signature_sha256": None}, {"fingerprint": None}):
        with pytest.raises(RemoteProtocolError):
            replace(SIGN, **changes)  # type: ignore[arg-type]  each is a field


@pytest.mark.parametrize("operation", [JournalOperation.SWITCH, JournalOperation.RECOVERED])
def test_no_signature_hides_in_a_record_of_something_else(operation: JournalOperation) -> None:
    """Whether the policy lets a runner sign by itself is asked of records of signatures only."""
    for name in ("fingerprint", "keygrip", "digest", "signature_sha256"):
        with pytest.raises(RemoteProtocolError, match="nothing else has any of them"):
            replace(SIGN, operation=operation, **{name: None})
    assert replace(SWITCH, operation=operation)


def test_a_report_holds_one_journals_records_in_order() -> None:
    Report("0" * 32, (SWITCH, SIGN))
    for records in (
        (),
        (SIGN, SWITCH),
        (SWITCH, replace(SIGN, sequence=3)),
        (SWITCH, replace(SIGN, journal="cd" * 16)),
    ):
        with pytest.raises(RemoteProtocolError):
            Report("0" * 32, records)
    many = tuple(replace(SWITCH, sequence=number) for number in range(1, MAX_REPORT_RECORDS + 2))
    with pytest.raises(RemoteProtocolError):
        Report("0" * 32, many)
