"""Searching the audit log, and what becomes of its index."""

import csv
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.admin import auditindex
from agentproxy.admin.auditquery import without_epoch
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Asserted, Claims
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.log import AuditLog, LogLimits
from agentproxy.signer.record import Entry
from tests.admin.shell import Result, blind_oracle

START = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = Digest(HashAlgorithm.SHA256, bytes(range(32)))
HELLO = Claims(user="mock", package="hello-0:1.0-1.noarch", job={"pipeline": "77", "project": "=cmd()"})
ENTRIES = (
    Entry("signer_started", Outcome.DONE),
    Entry("sign", Outcome.REFUSED, Asserted("b1", claims=HELLO), "no", request="0" * 32, key="modern", digest=DIGEST),
    Entry("sign", Outcome.SIGNED, Asserted(runner="b1", claims=HELLO), request="0" * 32, key="modern", digest=DIGEST),
    Entry("sign", Outcome.SIGNED, Asserted(runner="b2", claims=HELLO), request="0" * 32, key="modern", digest=DIGEST),
    Entry("sign", Outcome.SIGNED, Asserted(runner="b1"), request="1" * 32, key="legacy"),
    Entry("sign", Outcome.SIGNED, Asserted(runner="b1", claims=Claims(file="/tmp/hello-world-2-1.noarch.rpm"))),
)


def append(directory: Path, *entries: Entry) -> None:
    now = [START]
    with AuditLog.open(directory, "n1", LogLimits(reserve_bytes=0, rotate_bytes=1500), lambda: now[0]) as log:
        for number, entry in enumerate(entries):
            now[0] = START + timedelta(hours=number)
            log.append([entry])


@pytest.fixture(name="log")
def made_log(tmp_path: Path) -> Path:
    (tmp_path / "audit").mkdir()
    append(tmp_path / "audit", *ENTRIES)
    return tmp_path / "audit"


def query(log: Path, *options: str) -> Result:
    return blind_oracle("audit", "query", log, "--cache", log.parent / "cache", *options)


def found(log: Path, *options: str) -> list[list[int]]:
    result = query(log, "--json", *options)
    assert result.status == 0, result.errors
    return [json.loads(line)["sequences"] for line in result.output.splitlines()]


@pytest.mark.parametrize(
    ("options", "sequences"),
    [
        ((), [[1], [2, 3], [4], [5], [6]]),
        (("--runner", "b1"), [[2, 3], [5], [6]]),
        (("--runner", "nobody"), []),
        (("--key", "modern"), [[2, 3], [4]]),
        (("--outcome", "refused"), [[2]]),
        (("--digest", "00010203"), [[2, 3], [4]]),
        (("--digest", DIGEST.value.hex().upper()), [[2, 3], [4]]),
        (("--digest", "00010204"), []),
        (("--package", "hello"), [[2, 3], [4]]),
        (("--package", "hello*"), [[2, 3], [4], [6]]),
        (("--package", "h?llo"), [[2, 3], [4]]),
        (("--package", "hello-world-2-1.noarch"), [[6]]),
        (("--package", "hello-0:1.0-1.noarch"), [[2, 3], [4]]),
        (("--package", "hello-1.0-1.noarch"), [[2, 3], [4]]),
        (("--package", "hello-1.*"), [[2, 3], [4]]),
        (("--package", "hello-1:1.0-1.noarch"), []),
        (("--package", "hell[a-z]"), []),
        (("--job", "77"), [[2, 3], [4]]),
        (("--job", "pipeline=77", "--runner", "b2"), [[4]]),
        (("--job", "project=77"), []),
        (("--request", "1" * 32), [[5]]),
        (("--since", "2026-01-01T04:00", "--until", "2026-01-01T05:00Z"), [[5]]),
        (("--until", "2026-01-01"), []),
    ],
)
def test_records_are_found_and_those_of_one_request_are_one(
    log: Path, options: tuple[str, ...], sequences: list[list[int]]
) -> None:
    assert found(log, *options) == sequences


def test_the_record_that_is_shown_is_the_one_that_was_signed(log: Path) -> None:
    line = query(log, "--json", "--runner", "b1", "--package", "hello").output
    assert json.loads(line)["record"]["outcome"] == "signed"


def made(digest: bytes, signature: bytes, algorithm: HashAlgorithm = HashAlgorithm.RIPEMD160) -> Entry:
    """A signature for one id, which a runner may send as often as it likes."""
    sha256 = hashlib.sha256(signature).digest()
    return replace(ENTRIES[2], digest=Digest(algorithm, digest * 20), signature_sha256=sha256)


def test_an_id_that_is_used_again_hides_no_digest_and_no_signature(tmp_path: Path) -> None:
    log = tmp_path / "audit"
    log.mkdir()
    refused = replace(made(b"g", b""), outcome=Outcome.REFUSED, reason="no", signature_sha256=None)
    append(log, made(b"e", b"1"), refused, made(b"g", b"2"), made(b"g", b"3"), made(b"g", b"2"))
    append(log, made(b"g", b"2", HashAlgorithm.SHA1), made(b"e", b"1"))
    assert found(log) == [[4], [2, 3, 5], [6], [1, 7]]
    assert found(log, "--request", "0" * 32, "--outcome", "refused") == [[2]]
    assert found(log, "--digest", (b"e" * 20).hex()) == [[1, 7]]


@pytest.mark.parametrize("key", ["legacy", None])
def test_an_id_that_is_used_again_hides_no_attempt_on_another_key(tmp_path: Path, key: str | None) -> None:
    log = tmp_path / "audit"
    log.mkdir()
    refused = replace(made(b"g", b""), outcome=Outcome.REFUSED, reason="no", key=key, signature_sha256=None)
    append(log, made(b"g", b"1"), refused, refused)
    assert found(log) == [[1], [2, 3]]


@pytest.mark.parametrize(
    ("package", "plain"),
    [
        ("perl-Foo-4:1.0-1.el9.x86_64", "perl-Foo-1.0-1.el9.x86_64"),
        ("a-1-2:3-12:1-1.noarch", "a-1-2:3-1-1.noarch"),
        ("hello-1.0-1.noarch", "hello-1.0-1.noarch"),
        ("hello-0:1.0-1.noarch\n", "hello-1.0-1.noarch\n"),
        ("4:1.0-1", "4:1.0-1"),
        ("", ""),
    ],
)
def test_a_package_has_a_name_without_its_epoch(package: str, plain: str) -> None:
    assert without_epoch(package) == plain


def test_the_table_says_how_often_a_request_came(log: Path) -> None:
    heading, row, *rest = query(log, "--runner", "b1", "--package", "hello").output.splitlines()
    assert heading.split()[-1] == "times"
    assert (row.split()[0], row.split()[-1], rest) == ("3", "2", [])


def test_a_spreadsheet_gets_no_formula_from_a_build_server(log: Path) -> None:
    first, *_ = csv.DictReader(io.StringIO(query(log, "--csv", "--job", "77").output))
    assert first["claimed_package"] == "hello-0:1.0-1.noarch"
    assert first["claimed_job"] == "pipeline=77 project==cmd()"
    odd = replace(ENTRIES[5], asserted=Asserted(runner="b1", claims=Claims(package="=1+1")))
    append(log, odd)
    (row,) = csv.DictReader(io.StringIO(query(log, "--csv", "--package", "=1+1").output))
    assert row["claimed_package"] == "'=1+1"


def test_new_records_are_found_and_the_index_may_be_deleted(log: Path) -> None:
    assert len(found(log)) == 5
    append(log, *ENTRIES[4:])
    after = found(log)
    assert after == [[1], [2, 3], [4], [6], [5, 7], [8]]
    for path in (log.parent / "cache").iterdir():
        path.unlink()
    assert found(log) == after
    assert found(log, "--rebuild") == after


@pytest.mark.parametrize("content", [b"", b"not a database, and long enough to be looked at" * 100])
def test_a_damaged_index_is_made_anew(log: Path, content: bytes) -> None:
    before = found(log)
    (index,) = (log.parent / "cache").iterdir()
    index.write_bytes(content)
    assert found(log) == before


def test_an_index_that_another_search_is_writing_to_is_left_to_it(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = found(log)
    (index,) = (log.parent / "cache").iterdir()
    monkeypatch.setattr(auditindex, "_BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(index, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO jobs VALUES ('theirs', 1)")
        result = query(log)
        assert result.status == 1
        assert "no index can be made: database is locked" in result.errors
        assert "another search may be indexing" in result.errors
        other.execute("COMMIT")
    with closing(sqlite3.connect(index)) as reader:
        assert reader.execute("SELECT count(*) FROM jobs WHERE value = 'theirs'").fetchone() == (1,)
    assert found(log) == before


def test_a_log_that_was_rewritten_is_indexed_anew(log: Path) -> None:
    assert found(log, "--key", "legacy") == [[5]]
    for path in log.iterdir():
        path.unlink()
    append(log, *ENTRIES[:3])
    assert found(log) == [[1], [2, 3]]


def test_what_the_index_says_is_believed_by_nobody(log: Path) -> None:
    found(log)
    (path,) = (log.parent / "cache").iterdir()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE records SET runner = 'mallory' WHERE sequence = 6")
    database.close()
    result = query(log, "--runner", "mallory")
    assert result.status == 1
    assert "record 6 is not what the index says" in result.errors
    assert "mallory" not in result.output


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--digest", "0011"), "at least 8 hex digits"),
        (("--digest", "0011zzzzzz"), "at least 8 hex digits"),
        (("--since", "yesterday"), "expected a date or a time"),
        (("--runner", "\udcff"), "expected UTF-8 to look for, got '\\udcff'"),
        (("--job", "caf\udce9"), "expected UTF-8 to look for, got 'caf\\udce9'"),
        (("--package", "*a" * 30_000), "expected at most 4096 characters to look for, got 60000"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(log: Path, options: tuple[str, ...], error: str) -> None:
    result = query(log, *options)
    assert result.status == 1
    assert error in result.errors


def test_a_damaged_record_is_not_indexed(log: Path) -> None:
    segment = sorted(log.glob("*.jsonl"))[1]
    segment.chmod(0o640)
    segment.write_bytes(segment.read_bytes().replace(b'"node":', b'"Node":', 1))
    result = query(log)
    assert (result.status, result.output) == (1, "")
    assert f"{segment}: a record is damaged, at byte 0" in result.errors


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "soon"])
def test_a_moment_that_cannot_be_is_no_moment(log: Path, moment: str) -> None:
    for option in ("--since", "--until"):
        result = query(log, option, moment)
        assert result.status == 1
        assert "expected a date or a time" in result.errors


@pytest.mark.parametrize("words", [("query",), ("query", "--csv"), ("tail",)])
def test_a_claim_that_standard_output_cannot_have_hides_no_record(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "audit").mkdir()
    with AuditLog.open(tmp_path / "audit", "n1") as log:
        for package in ("\u041f\u0440\u0438-1-1.noarch", "last-1-1.noarch"):
            claims = Claims(package=package)
            log.append([Entry("sign", Outcome.REFUSED, Asserted(runner="b1", claims=claims), reason="no")])
    command = [sys.executable, "-m", "agentproxy.admin", "audit", *words, "--log", str(tmp_path / "audit")]
    environment = {**os.environ, "PYTHONIOENCODING": "iso-8859-1:strict", "BLIND_ORACLE_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(command, capture_output=True, env=environment, encoding="latin-1", check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "-1-1.noarch" in line]
    assert len(lines) == 2
    assert r"\u041f\u0440\u0438" in lines[0]
