"""What build servers signed by themselves, in all that reads the audit log."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.admin.fallbackcheck import findings_in
from agentproxy.admin.health import Level
from agentproxy.admin.signedfiles import signatures_of
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.log import AuditLog, LogLimits
from agentproxy.signer.record import Entry
from tests.admin.shell import Result, blind_oracle
from tests.signer.conftest import GnupgHome, new_home

JOURNAL = "ab" * 16


def report(sequence: int, *, runner: str = "b1", journal: str = JOURNAL, twist: str = "", reason: str = "") -> Entry:
    """A record of a relay's journal; `twist` makes it another one in the same place."""

    def name(number: int, twist: str = "") -> str:
        return hashlib.sha256(f"{journal}{number}{twist}".encode()).hexdigest() if number else bytes(32).hex()

    details = {"journal": journal, "sequence": str(sequence), "prev": name(sequence - 1), "hash": name(sequence, twist)}
    return Entry(
        "fallback_sign",
        Outcome.DONE,
        Asserted(runner=runner, channel="fallback"),
        reason=reason,
        request=f"{sequence:032x}",
        digest=Digest(HashAlgorithm.SHA256, sequence.to_bytes(32, "big")),
        signature_sha256=hashlib.sha256(f"{sequence}{twist}".encode()).digest(),
        details={**details, "fingerprint": "AB" * 20},
    )


def log_of(directory: Path, *entries: Entry) -> Path:
    directory.mkdir(exist_ok=True)
    with AuditLog.open(directory, "n1", LogLimits(reserve_bytes=0)) as log:
        for entry in entries:
            log.append([entry])
    return directory


def query(log: Path, *options: str) -> Result:
    return blind_oracle("audit", "query", log, "--cache", log.parent / "cache", "--json", *options)


def test_the_table_shows_the_operators_reason_and_before_it_the_oracles_objection(tmp_path: Path) -> None:
    said = [
        replace(one, details={**one.details, "reason": "drill"}) for one in (report(1), report(2, reason="forbidden"))
    ]
    log = log_of(tmp_path / "log", *said)
    result = blind_oracle("audit", "query", log, "--cache", tmp_path / "cache", "--channel", "fallback")
    _, first, second = result.output.splitlines()
    assert " drill " in first
    assert " forbidden " in second
    assert "drill" not in second


def sequences(result: Result) -> list[list[int]]:
    assert result.status == 0, result.errors
    return [json.loads(line)["sequences"] for line in result.output.splitlines()]


SIGN = Entry("sign", Outcome.SIGNED, Asserted(runner="b1", channel="relay/ssh"), request="f" * 32, key="modern")


def test_a_record_that_was_reported_twice_is_one_and_a_forged_twin_is_another(tmp_path: Path) -> None:
    twin = replace(report(1, twist="x"), request="e" * 32)
    log = log_of(tmp_path / "audit", SIGN, report(1), report(2), report(1), twin, report(1, runner="b2"))
    assert sequences(query(log, "--channel", "fallback")) == [[3], [2, 4], [5], [6]]
    assert sequences(query(log, "--channel", "fallback", "--runner", "b2")) == [[6]]
    assert sequences(query(log, "--channel", "relay")) == [[1]]
    assert sequences(query(log, "--channel", "relay/ssh")) == [[1]]
    assert sequences(query(log, "--channel", "rel")) == []
    for pattern in ("*", "rel?y", "relay/*", "relay/", "[r]elay"):
        assert sequences(query(log, "--channel", pattern)) == []


def verify(log: Path) -> tuple[int, list[str]]:
    result = blind_oracle("audit", "verify", log, "--json")
    return result.status, json.loads(result.output)["notes"]


def test_verify_has_nothing_to_say_of_whole_journals(tmp_path: Path) -> None:
    log = log_of(tmp_path / "audit", report(1), SIGN, report(2), report(2), report(1, runner="b2", journal="cd" * 16))
    assert verify(log) == (0, [])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ((report(1), report(3)), "records 2 to 2 are not here: another oracle has them, or nobody"),
        ((report(2),), "records 1 to 1 are not here"),
        ((report(1), report(2), report(2, twist="x")), "two different records 2 were reported: it was rewritten"),
        ((report(1, twist="x"), report(2)), "record 2 does not continue the one before it: it was rewritten"),
        ((report(1), report(1, journal="cd" * 16)), "runner b1 reported from 2 journals"),
        ((report(1, reason="forbidden"),), "1 records should not exist"),
        ((replace(report(1), details={"journal": JOURNAL, "sequence": "x"}),), "a record without a number"),
    ],
)
def test_verify_notes_what_is_wrong_with_a_journal_and_the_log_stays_whole(
    tmp_path: Path, entries: tuple[Entry, ...], words: str
) -> None:
    status, notes = verify(log_of(tmp_path / "audit", *entries))
    assert status == 0
    assert any(words in note for note in notes), notes


@pytest.fixture(name="gnupg", scope="module")
def made_home() -> Iterator[GnupgHome]:
    home = new_home()
    home.make("own", "rsa2048")
    yield home
    home.remove()


def signed_file(directory: Path, gnupg: GnupgHome) -> Path:
    (directory / "repomd.xml").write_text("<repomd/>")
    words = ("-u", gnupg.fingerprints["own"], "--output", str(directory / "repomd.xml.asc"), "--detach-sign")
    gnupg.gpg(*words, str(directory / "repomd.xml"))
    return directory / "repomd.xml.asc"


@pytest.mark.parametrize("reason", ["", "runners.b1.fallback: the policy does not let it sign by itself"])
def test_who_signed_and_reconcile_know_a_build_servers_own_signature(
    tmp_path: Path, gnupg: GnupgHome, reason: str
) -> None:
    (tmp_path / "tree").mkdir()
    signature = signed_file(tmp_path / "tree", gnupg)
    (found,) = signatures_of(signature)
    entry = replace(report(1, reason=reason), digest=found.digest, signature_sha256=found.signature_sha256)
    log = log_of(tmp_path / "audit", entry)
    place = ("--log", log, "--cache", tmp_path / "cache")
    result = blind_oracle("audit", "who-signed", *place, signature)
    assert "the build server made it with its own key (fallback), as it reported" in result.output
    assert f"with key {'AB' * 20}, for b1" in result.output
    assert result.status == (1 if reason else 0)
    assert (f"it should not exist: {reason}" in result.output) == bool(reason)
    result = blind_oracle("audit", "reconcile", tmp_path / "tree", *place)
    assert result.status == (1 if reason else 0), result.output
    assert ("1 by build servers' own keys (fallback)" in result.output) == (not reason)
    signature.unlink()
    result = blind_oracle("audit", "reconcile", tmp_path / "tree", *place)
    assert "record 1: signed with key ABAB" in result.output


@pytest.mark.parametrize(
    ("operation", "channel"), [("sign", "relay"), ("sign", "fallback"), ("fallback_switch", "fallback")]
)
def test_a_record_that_only_asserts_a_signature_accounts_for_none(
    tmp_path: Path, gnupg: GnupgHome, operation: str, channel: str
) -> None:
    """What a taken-over oracle can have recorded: all but that the signer signed."""
    (tmp_path / "tree").mkdir()
    signature = signed_file(tmp_path / "tree", gnupg)
    (found,) = signatures_of(signature)
    asserted = Asserted(runner="b1", channel=channel)
    entry = Entry(operation, Outcome.DONE, asserted, key="modern", digest=found.digest)
    log = log_of(tmp_path / "audit", replace(entry, signature_sha256=found.signature_sha256))
    place = ("--log", log, "--cache", tmp_path / "cache")
    result = blind_oracle("audit", "who-signed", *place, signature)
    assert (result.status, "this oracle never made it" in result.output) == (1, True), result.output
    result = blind_oracle("audit", "reconcile", tmp_path / "tree", *place)
    assert (result.status, "1 that are not" in result.output) == (1, True), result.output


def test_check_names_records_that_should_not_exist(tmp_path: Path) -> None:
    log = log_of(tmp_path / "audit", report(1), report(2, reason="the policy does not let it sign by itself"))
    now = datetime.now(UTC)
    (finding,) = findings_in(log, now)
    assert finding.level is Level.WARNING
    assert finding.message == "record 2 of b1: the policy does not let it sign by itself"
    (finding,) = findings_in(log, now + timedelta(days=31))
    assert finding.level is Level.OK
    (finding,) = findings_in(log_of(tmp_path / "good", report(1), SIGN), now)
    assert (finding.level, finding.message.endswith("within 30 days: 1")) == (Level.OK, True)
