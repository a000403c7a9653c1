"""Runners and tokens in the operator's hands, with a real signer and a real log."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

from agentproxy.admin.layout import Layout
from agentproxy.signer.record import AuditRecord
from tests.admin.shell import Result, blind_oracle

TOKEN = re.compile(r"bo_[A-Za-z0-9_-]{43}")


@pytest.fixture(name="state")
def made_state(short: Path) -> Layout:
    layout = Layout(short / "s")
    assert blind_oracle("init", layout.root, "--host", "oracle.example").status == 0
    assert do(layout, "runner", "add", "b1", "--output", layout.root / "b1.enrolment").status == 0
    return layout


def do(state: Layout, *words: str | Path) -> Result:
    return blind_oracle(*words, "--config", state.oracle_config)


def plain(state: Layout, *words: str) -> object:
    result = do(state, *words, "--json")
    assert result.status == 0, result.errors
    assert TOKEN.search(result.output) is None
    return json.loads(result.output)


def operations(state: Layout) -> list[str]:
    [segment] = state.audit.glob("*.jsonl")
    records = [AuditRecord.parse(line) for line in segment.read_bytes().splitlines()]
    return [record.entry.operation for record in records if not record.entry.operation.startswith("signer_")]


def test_a_new_runner_waits_for_its_enrolment(state: Layout) -> None:
    [row] = plain(state, "runner", "list")  # type: ignore[misc]
    assert (row["name"], row["state"]) == ("b1", "waiting")
    [token] = plain(state, "token", "list")  # type: ignore[misc]
    assert (token["runner"], token["kind"], token["state"]) == ("b1", "bootstrap", "valid")
    table = do(state, "runner", "list").output
    assert re.search(r"b1 +waiting +\d{4}-\d\d-\d\d \d\d:\d\d +- +1 +1 *\n", table)
    assert "bootstrap" in do(state, "token", "list").output
    assert "valid" in do(state, "runner", "show", "b1").output


def test_a_token_is_rotated_into_a_file_and_revoked(state: Layout) -> None:
    file = state.root / "t"
    first = do(state, "token", "rotate", "b1", "--overlap", "0", "--output", file)
    assert first.status == 0, first.errors
    assert file.stat().st_mode & 0o777 == 0o600
    assert TOKEN.fullmatch(file.read_text().strip())
    assert file.read_text().strip() not in first.output + first.errors
    states = {row["kind"]: (row["id"], row["state"]) for row in plain(state, "token", "list", "--runner", "b1")}  # type: ignore[attr-defined]
    assert states["bootstrap"][1] == "expired"
    lasting, is_valid = states["lasting"]
    assert is_valid == "valid"
    assert do(state, "token", "revoke", lasting).status == 0
    [row] = plain(state, "runner", "list")  # type: ignore[misc]
    assert row["state"] == "locked out"
    assert operations(state)[-2:] == ["token_issued", "token_revoked"]


def test_disable_enable_remove_and_revoke_are_recorded(state: Layout) -> None:
    assert do(state, "runner", "disable", "b1").status == 0
    [row] = plain(state, "runner", "list")  # type: ignore[misc]
    assert row["state"] == "disabled"
    [certificate] = row["certificates"]
    assert do(state, "runner", "enable", "b1").status == 0
    assert do(state, "runner", "revoke-certificate", certificate["public_key_sha256"]).status == 0
    shown = plain(state, "runner", "show", "b1")
    assert shown["certificates"][0]["state"] == "revoked"  # type: ignore[index]
    assert do(state, "runner", "enroll", "b1", "--output", state.root / "again").status == 0
    assert do(state, "runner", "remove", "b1").status == 0
    assert plain(state, "runner", "list") == plain(state, "token", "list") == []
    assert operations(state)[4:] == [
        "runner_disabled",
        "runner_enabled",
        "certificate_revoked",
        "issue",
        "credentials_issued",
        "runner_removed",
    ]


def test_a_public_key_that_the_registry_does_not_know_is_revoked_only_when_told_so(state: Layout) -> None:
    stranger = "ab" * 32
    result = do(state, "runner", "revoke-certificate", stranger, "--unknown")
    assert result.status == 0, result.errors
    assert result.output == f"revoked public key {stranger}, which no certificate in the registry has\n"
    assert operations(state)[-1] == "certificate_revoked"
    before = operations(state)
    again = do(state, "runner", "revoke-certificate", stranger)
    assert (again.status, again.output) == (0, f"public key {stranger} is revoked already\n")
    assert operations(state) == before


def test_both_names_of_a_certificate_are_shown(state: Layout) -> None:
    [certificate] = plain(state, "runner", "show", "b1")["certificates"]  # type: ignore[index]
    shown = do(state, "runner", "show", "b1").output
    assert f"public key   {certificate['public_key_sha256']}  valid\n" in shown
    assert f"certificate  {certificate['sha256']}\n" in shown


def test_what_a_disabled_runner_held_ends_when_it_is_enrolled_again(state: Layout) -> None:
    assert do(state, "token", "rotate", "b1", "--output", state.root / "t").status == 0
    assert do(state, "runner", "disable", "b1").status == 0
    before = len(operations(state))
    result = do(state, "runner", "enroll", "b1", "--output", state.root / "again")
    assert result.status == 0, result.errors
    assert "revoked for ever what b1 held: 2 tokens and 1 certificate\n" in result.output
    ended = ["token_revoked", "token_revoked", "certificate_revoked"]
    assert operations(state)[before:] == [*ended, "issue", "credentials_issued"]
    [row] = plain(state, "runner", "list")  # type: ignore[misc]
    assert row["state"] == "disabled"
    assert [token["state"] for token in row["tokens"]] == ["revoked", "revoked", "valid"]
    assert [certificate["state"] for certificate in row["certificates"]] == ["revoked", "valid"]


def test_nothing_is_revoked_when_the_enrolment_file_cannot_be_made(state: Layout) -> None:
    before = operations(state)
    result = do(state, "runner", "enroll", "b1", "--revoke-old", "--output", state.root / "b1.enrolment")
    assert result.status == 1
    assert "is there already" in result.errors
    assert operations(state) == before


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["runner", "disable", "gone"], "no runner gone", "runner list"),
        (["runner", "show", "gone"], "no runner gone", "runner list"),
        (["runner", "enroll", "gone"], "no runner gone", "runner"),
        (["token", "rotate", "gone"], "no runner gone", "runner list"),
        (["token", "revoke", "f" * 12], "no token ffffffffffff", "token list"),
        (["runner", "revoke-certificate", "abc"], "expected 64 hex digits", "runner show"),
        (["runner", "revoke-certificate", "ab " * 32], "expected 64 hex digits", "runner show"),
        (["runner", "revoke-certificate", "AB" * 32], f"no certificate or public key {'ab' * 32}", "runner show"),
    ],
)
def test_what_is_not_there_is_said_with_a_hint(
    state: Layout, words: list[str], error: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(state.root)
    before = operations(state)
    result = do(state, *words)
    assert result.status == 1
    assert error in result.errors
    assert hint in result.errors
    assert operations(state) == before
    assert not list(state.root.glob("gone*"))


def test_without_room_for_the_file_no_secret_is_made(state: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = (plain(state, "runner", "list"), plain(state, "token", "list"), operations(state))
    for words in (("token", "rotate", "b1", "--overlap", "0"), ("runner", "add", "b2"), ("runner", "enroll", "b1")):
        file = state.root / "full"
        result = do(state, *words, "--output", file)
        assert (result.status, result.errors.splitlines()[0]) == (
            1,
            f"blind-oracle: error: {file}: cannot be written: No space left on device",
        )
        assert not file.exists()
    assert (plain(state, "runner", "list"), plain(state, "token", "list"), operations(state)) == before
