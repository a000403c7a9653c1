import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from agentproxy.oracle import database, schema
from agentproxy.oracle.changes import (
    CertificateRevoked,
    Change,
    CredentialsIssued,
    Enrolled,
    Renewed,
    RunnerAdded,
    RunnerDisabled,
    RunnerEnabled,
    RunnerRemoved,
    TokenIssued,
    TokenRevoked,
    details_of,
    parse_change,
    token_id,
)
from agentproxy.oracle.credentials import Credentials, TokenKind
from agentproxy.oracle.database import Database, Postgresql, SqliteFile
from agentproxy.oracle.registry import Registry, RegistryError
from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import BackendError, ConfigError, RefusedError, RemoteProtocolError
from agentproxy.protocol.signer_answers import CREDENTIAL_OPERATIONS, CredentialRecord, CredentialRecords
from tests.oracle.postgresql import Server, server

NOW = datetime.now(UTC).replace(microsecond=7)
DAY = timedelta(days=1)


class FakeJournal:
    """A log in memory: the real one's form, two records a part; other records stand between those of credentials."""

    def __init__(self) -> None:
        self.records: list[CredentialRecord] = []
        self.last = 3
        self.failure: Exception | None = None
        self.dies_after_writing = False

    def node(self) -> str:
        return "node"

    def write(self, change: Change) -> int:
        if self.failure is not None:
            raise self.failure
        self.last += 2
        record = CredentialRecord(self.last, datetime.now(UTC), change.operation, details_of(change))
        self.records.append(record)
        if self.dies_after_writing:
            raise KeyboardInterrupt
        return self.last

    def read(self, after: int) -> CredentialRecords:
        if after > self.last:
            raise BackendError(f"the log ends with record {self.last}, before record {after}")
        part = tuple(record for record in self.records if record.sequence > after)[:2]
        return CredentialRecords(0, "node", part, part[-1].sequence if len(part) == 2 else self.last, self.last)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


@pytest.fixture
def journal() -> FakeJournal:
    return FakeJournal()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, path: Path) -> Iterator[Registry]:
    database: Database = SqliteFile(path)
    if request.param == "postgresql":
        database = Postgresql(request.getfixturevalue("postgresql").new_database())
    made = Registry.create(database)
    yield made
    made.close()


# For what is about the file.
IN_A_FILE = pytest.mark.parametrize("registry", ["sqlite"], indirect=True)
IN_A_SERVER = pytest.mark.parametrize("registry", ["postgresql"], indirect=True)


def sha256(number: int) -> bytes:
    return number.to_bytes(32, "little")


def issued(number: int, kind: TokenKind = TokenKind.LASTING, replaces: int | None = None) -> CredentialsIssued:
    old = None if replaces is None else token_id(sha256(replaces))
    return CredentialsIssued(
        "a", sha256(number), NOW + DAY, sha256(number + 100), sha256(number + 200), NOW + DAY, kind, old
    )


def make(registry: Registry, journal: FakeJournal, *changes: Change) -> Credentials:
    for change in changes:
        registry.change(journal, change)
    return registry.snapshot()


EVERY_CHANGE: list[Change] = [
    RunnerAdded("a"),
    RunnerAdded("b"),
    RunnerAdded("c"),
    RunnerDisabled("b"),
    RunnerDisabled("c"),
    RunnerEnabled("c"),
    issued(1, TokenKind.BOOTSTRAP),
    issued(2, replaces=1),
    issued(3, replaces=1),
    Enrolled("a", token_id(sha256(3)), token_id(sha256(1))),
    issued(4, replaces=3),
    Renewed("a", token_id(sha256(4)), token_id(sha256(3)), NOW),
    TokenIssued("b", sha256(5)),
    TokenIssued("b", sha256(6), NOW + DAY, NOW),
    TokenRevoked(token_id(sha256(6))),
    CertificateRevoked(sha256(99)),
    RunnerRemoved("c"),
]


def test_every_operation_of_the_log_is_a_change_and_read_back_as_it_was_written() -> None:
    assert {change.operation for change in EVERY_CHANGE} == CREDENTIAL_OPERATIONS
    for change in EVERY_CHANGE:
        assert parse_change(change.operation, details_of(change)) == change
        assert all(isinstance(value, str) for value in details_of(change).values())


@pytest.mark.parametrize(
    ("operation", "details"),
    [
        ("sign", {}),
        ("runner_added", {}),
        ("runner_added", {"runner": "a b"}),
        ("runner_added", {"runner": "a", "more": "1"}),
        ("token_issued", {"runner": "a", "token_sha256": "AB"}),
    ],
)
def test_a_record_that_we_do_not_know_whole_is_no_change(operation: str, details: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_change(operation, details)


@IN_A_FILE
def test_a_registry_from_any_earlier_backup_comes_back_to_the_same_state(
    path: Path, registry: Registry, journal: FakeJournal
) -> None:
    backups = [path.with_name("backup0")]
    shutil.copy(path, backups[0])
    for number, change in enumerate(EVERY_CHANGE, 1):
        registry.change(journal, change)
        backups.append(path.with_name(f"backup{number}"))
        with sqlite3.connect(path) as source, sqlite3.connect(backups[-1]) as target:
            source.backup(target)
        source.close()
        target.close()
    wanted = _without_times(registry.snapshot())
    for number, backup in enumerate(backups):
        restored = Registry.open(SqliteFile(backup))
        assert restored.catch_up(journal) == len(EVERY_CHANGE) - number
        assert _without_times(restored.snapshot()) == wanted, number
        assert restored.catch_up(journal) == 0
        restored.close()


def _without_times(seen: Credentials) -> object:
    return (
        {name: entry.disabled for name, entry in seen.runners.items()},
        {
            entry.id: (entry.runner, entry.expires, entry.revoked is None, entry.kind, entry.replaces, entry.is_pending)
            for entry in seen.tokens.values()
        },
        {entry.sha256: (entry.runner, entry.expires, entry.token) for entry in seen.certificates.values()},
        seen.revoked_public_keys,
    )


def test_a_change_that_was_recorded_and_not_made_is_made_before_the_next(
    registry: Registry, journal: FakeJournal
) -> None:
    make(registry, journal, RunnerAdded("a"), issued(1))
    journal.dies_after_writing = True
    with pytest.raises(KeyboardInterrupt):
        registry.change(journal, TokenRevoked(token_id(sha256(1))))
    assert registry.snapshot().tokens[sha256(1)].revoked is None
    journal.dies_after_writing = False
    assert make(registry, journal, RunnerAdded("b")).tokens[sha256(1)].revoked is not None


def test_what_is_not_recorded_does_not_happen(registry: Registry, journal: FakeJournal) -> None:
    before = make(registry, journal, RunnerAdded("a"))
    journal.failure = BackendError("the disk is full")
    with pytest.raises(BackendError):
        registry.change(journal, issued(1))
    assert registry.snapshot() == before


def test_what_cannot_be_is_not_recorded(registry: Registry, journal: FakeJournal) -> None:
    before = make(registry, journal, RunnerAdded("a"))
    for change in (RunnerAdded("a"), RunnerRemoved("b"), TokenIssued("b", sha256(1)), TokenRevoked("f" * 12)):
        with pytest.raises(ConfigError, match=r"exists already|no runner b|no token"):
            registry.change(journal, change)
    assert registry.snapshot() == before
    assert len(journal.records) == 1


def test_nothing_is_issued_in_the_place_of_a_token_that_was_revoked(registry: Registry, journal: FakeJournal) -> None:
    before = make(registry, journal, RunnerAdded("a"), issued(1), TokenRevoked(token_id(sha256(1))))
    for replaced in (1, 7):  # revoked, and never there
        with pytest.raises(RefusedError, match="was revoked"):
            registry.change(journal, issued(2, replaces=replaced))
    assert registry.snapshot() == before
    assert len(journal.records) == 3


def test_the_first_use_of_what_was_revoked_is_not_recorded(registry: Registry, journal: FakeJournal) -> None:
    before = make(registry, journal, *EVERY_CHANGE[:1], *EVERY_CHANGE[6:10])
    sibling, bootstrap = token_id(sha256(2)), token_id(sha256(1))
    for use in (Enrolled("a", sibling, bootstrap), Renewed("a", sibling, bootstrap, NOW)):
        with pytest.raises(RefusedError, match="was revoked") as refused:
            registry.change(journal, use)
        assert refused.value.code == RejectionCode.TOKEN_REVOKED
    assert registry.snapshot() == before
    assert len(journal.records) == 5


@pytest.mark.parametrize("ended", [TokenRevoked(token_id(sha256(1))), CertificateRevoked(sha256(201))])
def test_a_set_that_was_never_used_ends_with_the_one_that_it_was_given_out_for(
    registry: Registry, journal: FakeJournal, ended: Change
) -> None:
    seen = make(registry, journal, *EVERY_CHANGE[:1], *EVERY_CHANGE[6:9], ended)
    assert all(seen.tokens[sha256(number)].revoked is not None for number in (2, 3))
    with pytest.raises(RefusedError, match="was revoked"):
        registry.change(journal, Enrolled("a", token_id(sha256(3)), token_id(sha256(1))))


def test_a_set_in_use_stays_when_the_one_before_it_is_revoked(registry: Registry, journal: FakeJournal) -> None:
    seen = make(registry, journal, *EVERY_CHANGE[:1], *EVERY_CHANGE[6:12], TokenRevoked(token_id(sha256(3))))
    assert seen.tokens[sha256(4)].revoked is None


def test_a_log_that_ends_before_what_the_registry_knows_is_not_believed(
    registry: Registry, journal: FakeJournal
) -> None:
    make(registry, journal, RunnerAdded("a"))
    with pytest.raises(BackendError, match="before record"):
        registry.catch_up(FakeJournal())


def test_a_record_of_a_later_version_stops_the_replay(registry: Registry, journal: FakeJournal) -> None:
    journal.records = [CredentialRecord(5, NOW, "runner_added", {"runner": "a", "colour": "red"})]
    journal.last = 5
    with pytest.raises(BackendError, match="record 5 of the audit log"):
        registry.catch_up(journal)
    assert registry.snapshot().runners == {}


def test_enrolment_ends_the_bootstrap_and_what_was_sent_and_never_used(
    registry: Registry, journal: FakeJournal
) -> None:
    changes = EVERY_CHANGE[:1] + EVERY_CHANGE[6:10]
    seen = make(registry, journal, *changes)
    assert {number: seen.tokens[sha256(number)].revoked is None for number in (1, 2, 3)} == {
        1: False,
        2: False,
        3: True,
    }
    assert seen.revoked_public_keys == {sha256(201), sha256(202)}
    assert not seen.tokens[sha256(3)].is_pending


def test_renewal_lets_the_old_ones_live_for_the_overlap(registry: Registry, journal: FakeJournal) -> None:
    renewed = Renewed("a", token_id(sha256(2)), token_id(sha256(1)), NOW + DAY / 2)
    seen = make(registry, journal, RunnerAdded("a"), issued(1), issued(2, replaces=1), renewed)
    assert seen.tokens[sha256(1)].expires == seen.certificates[sha256(101)].expires == NOW + DAY / 2
    assert seen.tokens[sha256(2)].expires == seen.certificates[sha256(102)].expires == NOW + DAY
    assert seen.revoked_public_keys == frozenset()


def test_a_rotation_only_shortens_a_token_s_life(registry: Registry, journal: FakeJournal) -> None:
    seen = make(
        registry,
        journal,
        RunnerAdded("a"),
        TokenIssued("a", sha256(1), NOW),
        TokenIssued("a", sha256(2), None, NOW + DAY),
    )
    assert (seen.tokens[sha256(1)].expires, seen.tokens[sha256(2)].expires) == (NOW, None)
    seen = make(registry, journal, TokenIssued("a", sha256(3), None, NOW - DAY))
    assert seen.tokens[sha256(1)].expires == seen.tokens[sha256(2)].expires == NOW - DAY


def test_a_removed_runner_s_keys_stay_revoked_for_its_successor(registry: Registry, journal: FakeJournal) -> None:
    seen = make(registry, journal, RunnerAdded("a"), issued(1), RunnerRemoved("a"), RunnerAdded("a"))
    assert (seen.tokens, seen.certificates) == ({}, {})
    assert seen.revoked_public_keys == {sha256(201)}


def test_each_change_moves_the_generation_and_nothing_else_does(registry: Registry, journal: FakeJournal) -> None:
    generations = [registry.generation()]
    for change in EVERY_CHANGE:
        registry.change(journal, change)
        generations.append(registry.generation())
    assert len(set(generations)) == len(generations)
    journal.last += 100
    registry.catch_up(journal)
    registry.note_use({token_id(sha256(1)): NOW})
    assert registry.generation() == generations[-1]
    assert registry.snapshot().tokens[sha256(1)].last_used == NOW


@IN_A_FILE
def test_only_we_can_read_it(path: Path, registry: Registry, journal: FakeJournal) -> None:
    make(registry, journal, RunnerAdded("a"))
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


@IN_A_FILE
def test_a_second_registry_is_not_made_over_the_first(path: Path, registry: Registry) -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        Registry.create(SqliteFile(path))


def test_what_is_no_registry_is_not_opened(path: Path) -> None:
    with pytest.raises(ConfigError, match="no registry there"):
        Registry.open(SqliteFile(path))
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: cannot be read as a registry: file is not"):
        Registry.open(SqliteFile(path))


@IN_A_FILE
def test_a_registry_that_is_gone_is_noticed_and_not_made_anew(path: Path, registry: Registry) -> None:
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(RegistryError):
        registry.generation()
    assert not path.exists()


@IN_A_FILE
@pytest.mark.parametrize("beside", ["", "-journal", "-wal", "-shm"])
def test_a_fifo_in_a_file_s_place_is_named_and_keeps_nobody_waiting(
    path: Path, registry: Registry, beside: str
) -> None:
    file = path.with_name(f"{path.name}{beside}")
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    other_end = os.open(file, os.O_RDWR)  # whoever opens the FIFO all the same goes on, and is found out
    try:
        with pytest.raises(RegistryError, match=rf"{re.escape(str(file))}: expected a file"):
            registry.generation()
    finally:
        os.close(other_end)


@IN_A_FILE
def test_a_link_beside_a_registry_leads_nobody_to_another_file(path: Path, registry: Registry) -> None:
    path.with_name(f"{path.name}-journal").symlink_to(path)
    with pytest.raises(RegistryError, match="-journal: expected a file"):
        registry.generation()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works in a directory of another user")
def test_root_changes_no_database_to_which_the_oracles_user_has_led_it(tmp_path: Path) -> None:
    other, directory = tmp_path / "other.sqlite", tmp_path / "oracle"
    with sqlite3.connect(other) as made:
        made.execute("CREATE TABLE theirs (x)")
    made.close()
    before = other.read_bytes()
    directory.mkdir()
    os.chown(directory, 1, 1)
    (directory / "registry.sqlite").symlink_to(other)
    with pytest.raises(ConfigError, match="belongs to uid 0, expected 1, whose directory"):
        Registry.open(SqliteFile(directory / "registry.sqlite"))
    assert other.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["oracle", "other.sqlite"]  # and no write-ahead log


@IN_A_FILE
def test_a_locked_registry_lets_read_and_says_that_it_cannot_be_changed(
    path: Path, registry: Registry, journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    quick = Registry.open(SqliteFile(path))
    with sqlite3.connect(path) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert registry.generation() == 0
        with pytest.raises(RegistryError, match=f"^{re.escape(str(path))}: database is locked"):
            quick.change(journal, RunnerAdded("a"))
        writer.execute("ROLLBACK")
    writer.close()
    quick.close()
    assert journal.records == []


@IN_A_FILE
def test_a_full_disk_fails_the_change_and_the_replay_makes_it_later(
    path: Path, registry: Registry, journal: FakeJournal
) -> None:
    before = registry.snapshot()

    @sa.event.listens_for(registry._engine, "connect")
    def limit(connection: sqlite3.Connection, _: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    names = [f"{number:064d}" for number in range(500)]
    with pytest.raises(RegistryError, match=f"^{re.escape(str(path))}: database or disk is full"):
        make(registry, journal, *map(RunnerAdded, names))
    assert len(registry.snapshot().runners) == len(journal.records) - 1 > len(before.runners)
    again = Registry.open(SqliteFile(path))
    assert again.catch_up(journal) == 1
    assert len(again.snapshot().runners) == len(journal.records)
    again.close()


@IN_A_FILE
def test_a_registry_of_a_later_version_is_refused(path: Path, registry: Registry) -> None:
    with sqlite3.connect(path) as writer:
        writer.execute("UPDATE alembic_version SET version_num = '9999'")
    writer.close()
    with pytest.raises(ConfigError, match=re.escape(f"{path}: the registry belongs to another version")):
        Registry.open(SqliteFile(path))


def test_a_registry_of_the_first_version_is_brought_up_and_keeps_what_it_holds(path: Path) -> None:
    from alembic import command, config  # noqa: PLC0415  what only this test does

    path.touch()
    engine = SqliteFile(path).engine()
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        steps = config.Config()
        steps.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
        steps.attributes["connection"] = connection
        command.upgrade(steps, "0001")
        connection.exec_driver_sql("INSERT INTO runners VALUES ('a', '2026-11-22T10:00:00.000000Z', 0)")
        token = ("ab" * 32, "ab" * 6, "2026-11-22T10:00:00.000000Z")
        connection.exec_driver_sql("INSERT INTO tokens VALUES (?, ?, 'a', ?, NULL, NULL, NULL)", token)
        connection.commit()
    registry = Registry.open(SqliteFile(path))
    (entry,) = registry.snapshot().tokens.values()
    assert (entry.runner, entry.kind, entry.is_pending) == ("a", TokenKind.LASTING, False)
    registry.close()


def test_the_migrations_lead_to_the_tables_that_the_code_uses(registry: Registry) -> None:
    with registry._engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), schema.metadata)
    assert differences == []


@IN_A_SERVER
def test_a_server_s_registry_is_made_once_and_joined_by_others(registry: Registry, journal: FakeJournal) -> None:
    make(registry, journal, RunnerAdded("a"))
    for other in (Registry.create(registry._database), Registry.open(registry._database)):
        assert set(other.snapshot().runners) == {"a"}
        assert other.generation() == registry.generation() == 1
        other.close()


def test_an_empty_database_of_a_server_is_no_registry(postgresql: Server) -> None:
    with pytest.raises(ConfigError, match="no registry"):
        Registry.open(Postgresql(postgresql.new_database()))


def test_a_snapshot_is_of_one_moment_while_others_change_it(registry: Registry, journal: FakeJournal) -> None:
    make(registry, journal, RunnerAdded("a"), issued(1))
    with registry._reading() as reading:
        before = reading.execute(sa.select(schema.generation.c.value)).scalar_one()
        make(registry, journal, RunnerRemoved("a"))
        assert reading.execute(sa.select(schema.generation.c.value)).scalar_one() == before
        assert reading.execute(sa.select(schema.runners.c.name)).scalars().all() == ["a"]


@IN_A_SERVER
def test_a_writer_waits_for_another_for_a_bounded_time_and_records_nothing(
    registry: Registry, journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    quick = Registry.open(registry._database)
    with registry._transaction() as writer:
        registry._lock(writer)
        assert quick.generation() == 0
        with pytest.raises(RegistryError, match="lock timeout"):
            quick.change(journal, RunnerAdded("a"))
    quick.close()
    assert journal.records == []


@IN_A_SERVER
def test_a_server_that_is_gone_is_noticed_and_used_again_when_it_is_back(
    registry: Registry, journal: FakeJournal, postgresql: Server
) -> None:
    make(registry, journal, RunnerAdded("a"))
    postgresql.stop()
    with pytest.raises(RegistryError):
        registry.generation()
    with pytest.raises(RegistryError):
        registry.change(journal, RunnerAdded("b"))
    postgresql.start()
    assert set(make(registry, journal, RunnerAdded("b")).runners) == {"a", "b"}


@IN_A_SERVER
def test_each_node_s_log_is_followed_for_itself(registry: Registry, journal: FakeJournal) -> None:
    class OtherNode(FakeJournal):
        def node(self) -> str:
            return "other"

    other = OtherNode()
    make(registry, journal, RunnerAdded("a"))
    make(registry, other, RunnerAdded("b"))
    assert registry.catch_up(journal) == registry.catch_up(other) == 0
    assert set(registry.snapshot().runners) == {"a", "b"}


@pytest.mark.parametrize("words", ["host=db password=x", "host=db password = x", "postgresql://u:x@db/name"])
def test_a_password_does_not_stand_in_the_configuration(words: str) -> None:
    with pytest.raises(ConfigError, match="without a password"):
        Postgresql(words)
