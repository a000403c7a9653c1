"""Copies of what an oracle cannot make again: each copy adds to the last, and a bad one is refused."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from agentproxy.admin.backup import Backup
from agentproxy.admin.changing import changing
from agentproxy.admin.layout import load_oracle, load_signer
from agentproxy.protocol.errors import ConfigError
from agentproxy.signer.segment import ZEROS_AHEAD
from tests.admin.shell import Result, blind_oracle


@pytest.fixture
def state(short: Path) -> Path:
    made = blind_oracle("init", short / "s", "--node", "n1")
    assert made.status == 0, made.errors
    return short / "s"


def backup(state: Path, *words: str | Path) -> Result:
    return blind_oracle("backup", *words, environment={"BLIND_ORACLE_CONFIG": str(state / "oracle.yaml")})


def add(state: Path, name: str) -> None:
    words = ("runner", "add", name, "--output", state.parent / f"{name}.enrolment")
    added = blind_oracle(*words, environment={"BLIND_ORACLE_CONFIG": str(state / "oracle.yaml")})
    assert added.status == 0, added.errors


def change_registry(state: Path) -> None:
    """Change the registry alone, in a way that shows in a copy of it."""
    with sqlite3.connect(state / "oracle" / "registry.sqlite") as database:
        database.execute("UPDATE generation SET value = value + 1")
    database.close()


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_each_copy_adds_what_is_new_and_could_start_an_oracle(state: Path) -> None:
    copy, log = state.parent / "copy", state / "audit" / "n1-000000000001.jsonl"
    assert backup(state, "take", copy).status == 0
    first = (copy / "audit" / log.name).read_bytes()
    add(state, "a")
    taken = backup(state, "take", copy)
    assert taken.status == 0, taken.errors
    assert (copy / "audit" / log.name).read_bytes() == log.read_bytes()
    assert log.read_bytes().startswith(first)
    assert "0 bytes of the audit log added" in backup(state, "take", copy).output

    (state.parent / "kept.pub").write_bytes((state / "audit" / "n1.pub").read_bytes())
    checked = backup(state, "check", copy, "--public-key", state.parent / "kept.pub")
    assert checked.status == 0, checked.errors
    assert "1 build servers" in checked.output
    for path in (copy, *copy.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_secret_is_in_a_copy(state: Path) -> None:
    assert backup(state, "take", state.parent / "copy").status == 0
    secrets = [
        (state / name).read_bytes() for name in ("oracle/server.key", "signer/authority.key", "signer/audit.key")
    ]
    for path in (state.parent / "copy").rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in secrets), path
            assert b"PRIVATE KEY" not in path.read_bytes(), path


@pytest.mark.parametrize("how", ["rewritten", "cut", "of another oracle"])
def test_a_log_that_does_not_continue_the_copy_is_told_and_nothing_is_copied_over(state: Path, how: str) -> None:
    copy, log = state.parent / "copy", state / "audit" / "n1-000000000001.jsonl"
    add(state, "a")
    assert backup(state, "take", copy).status == 0
    content, kept = log.read_bytes(), contents(copy)
    change_registry(state)
    if how == "rewritten":
        log.write_bytes(content.replace(b'"outcome":"done"', b'"outcome":"gone"'))
    elif how == "cut":
        log.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    else:
        log.write_bytes(content.replace(b'"n1"', b'"n2"'))
    taken = backup(state, "take", copy)
    assert taken.status == 1
    assert "does not continue" in taken.errors
    assert contents(copy) == kept


@pytest.mark.parametrize("how", ["cut by a whole segment", "of another node"])
def test_a_log_without_a_segment_that_the_copy_has_is_told_and_nothing_is_copied_over(state: Path, how: str) -> None:
    copy, log = state.parent / "copy", state / "audit" / "n1-000000000001.jsonl"
    add(state, "a")
    if how == "cut by a whole segment":
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:2]))
        later = log.with_name("n1-000000000003.jsonl")
        later.write_bytes(b"".join(lines[2:]))
        assert backup(state, "take", copy).status == 0
        kept = contents(copy)
        later.unlink()
    else:
        assert backup(state, "take", copy).status == 0
        kept = contents(copy)
        shutil.rmtree(state)
        assert blind_oracle("init", state, "--node", "n2").status == 0
    taken = backup(state, "take", copy)
    assert taken.status == 1
    assert "does not continue" in taken.errors
    assert contents(copy) == kept


def test_a_log_that_is_not_there_is_told(state: Path) -> None:
    shutil.rmtree(state / "audit")
    (state / "audit").mkdir()
    assert "no audit log here" in backup(state, "take", state.parent / "copy").errors


def test_of_two_that_take_at_once_one_waits(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = state.parent / "copy"
    assert backup(state, "take", copy).status == 0
    kept = contents(copy)
    monkeypatch.setattr("agentproxy.admin.changing.WAIT_SECONDS", 0.1)
    with changing(copy / "audit"):
        add(state, "a")
        taken = backup(state, "take", copy)
        assert taken.status == 1
        assert "another command" in taken.errors
        assert {**contents(copy), **kept} == contents(copy)
    assert backup(state, "take", copy).status == 0


def test_a_copy_without_the_registry_that_its_configuration_names_is_told(state: Path) -> None:
    copy = state.parent / "copy"
    assert backup(state, "take", copy).status == 0
    (copy / "registry.sqlite").unlink()
    checked = backup(state, "check", copy)
    assert checked.status == 1
    assert "registry.sqlite: is missing" in checked.errors


def test_a_registry_that_was_emptied_does_not_replace_its_last_copy(state: Path) -> None:
    copy, registry = state.parent / "copy", state / "oracle" / "registry.sqlite"
    assert backup(state, "take", copy).status == 0
    before = contents(copy)
    registry.write_bytes(b"")  # to SQLite a database without tables
    taken = backup(state, "take", copy)
    assert taken.status == 1
    assert f"{registry}: cannot be copied: no such table: runners" in taken.errors
    assert f"{copy}/registry.sqlite: stays as it was" in taken.errors
    assert contents(copy) == before


def test_a_log_in_use_is_copied_without_the_zeros_ahead_of_its_end(state: Path) -> None:
    copy, log = state.parent / "copy", state / "audit" / "n1-000000000001.jsonl"
    whole = log.read_bytes()
    for _ in range(2):
        log.write_bytes(whole + bytes(ZEROS_AHEAD))
        assert backup(state, "take", copy).status == 0
        assert (copy / "audit" / log.name).read_bytes() == whole
    add(state, "a")
    assert backup(state, "take", copy).status == 0
    assert (copy / "audit" / log.name).read_bytes() == log.read_bytes()
    assert log.read_bytes().startswith(whole)
    assert backup(state, "check", copy).status == 0


def test_a_torn_last_line_waits_for_the_next_copy(state: Path) -> None:
    copy, log = state.parent / "copy", state / "audit" / "n1-000000000001.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"sequence":2,"ti')
    assert backup(state, "take", copy).status == 0
    assert (copy / "audit" / log.name).read_bytes() == whole
    assert backup(state, "check", copy).status == 0


def test_a_damaged_copy_is_told(state: Path) -> None:
    copy = state.parent / "copy"
    add(state, "a")
    assert backup(state, "take", copy).status == 0
    kept = copy / "audit" / "n1-000000000001.jsonl"
    content = kept.read_bytes()
    kept.write_bytes(content.replace(b'"runner":"a"', b'"runner":"b"', 1))
    assert "record" in backup(state, "check", copy).errors
    kept.write_bytes(content)
    (copy / "registry.sqlite").write_bytes(b"no database" * 1000)
    assert "cannot be read as a registry" in backup(state, "check", copy).errors


def test_a_log_that_is_empty_is_behind_its_registry(state: Path) -> None:
    copy = state.parent / "copy"
    add(state, "a")
    assert backup(state, "take", copy).status == 0
    for file in (copy / "audit").iterdir():
        file.write_bytes(b"")
    checked = backup(state, "check", copy)
    assert checked.status == 1
    assert "the log ends with record 0, and the registry knows record" in checked.errors


def test_a_registry_that_is_ahead_of_the_log_is_told(state: Path) -> None:
    copy = state.parent / "copy"
    add(state, "a")
    assert backup(state, "take", copy).status == 0
    with sqlite3.connect(copy / "registry.sqlite") as database:
        database.execute("UPDATE applied SET sequence = 1000000")
    database.close()
    checked = backup(state, "check", copy)
    assert checked.status == 1
    assert "the registry knows record 1000000" in checked.errors
    assert "copy both again" in checked.errors


def test_a_disk_that_is_full_is_an_error_and_the_copy_goes_on_later(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Backup(state.parent / "copy")
    config = state / "oracle.yaml"
    oracle = load_oracle(config)
    assert copy.take(oracle, config, load_signer(oracle)).log_bytes > 0
    add(state, "a")
    shutil.rmtree(copy.configuration)
    copy.configuration.write_text("in the way")
    with pytest.raises(ConfigError):
        copy.take(oracle, config, load_signer(oracle))
    copy.configuration.unlink()
    copy.take(oracle, config, load_signer(oracle))
    assert copy.drill(()).runners == 1


def test_the_names_of_what_was_copied_are_on_disk_too(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Backup(state.parent / "copy")
    config = state / "oracle.yaml"
    oracle = load_oracle(config)
    synced: dict[Path, set[str]] = {}

    def seen(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            synced[path] = {entry.name for entry in path.iterdir()}

    monkeypatch.setattr(os, "fsync", seen)
    copy.take(oracle, config, load_signer(oracle))
    for directory in (copy.root, copy.audit):
        assert synced.get(directory, set()) >= {entry.name for entry in directory.iterdir()}


@pytest.mark.parametrize("place", ["oracle/registry.sqlite", "oracle/registry.sqlite-journal", "audit/n1.pub"])
def test_a_fifo_in_a_daemon_s_directory_is_named_and_keeps_no_copy_waiting(state: Path, place: str) -> None:
    file = state / place
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    other_end = os.open(file, os.O_RDWR)  # whoever opens the FIFO all the same goes on, and is found out
    try:
        taken = backup(state, "take", state.parent / "copy")
    finally:
        os.close(other_end)
    assert taken.status == 1
    assert f"{file.name}: expected a" in taken.errors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_no_copy_goes_where_somebody_else_has_prepared_it(state: Path) -> None:
    copy, other = state.parent / "copy", state.parent / "other"
    for directory in (copy, other):
        directory.mkdir()
    (copy / "configuration").symlink_to(other)
    os.chown(copy, 12345, 12345)
    taken = backup(state, "take", copy)
    assert taken.status == 1
    assert f"{copy}: others can write here, so they could have us write elsewhere" in taken.errors
    assert list(other.iterdir()) == []
