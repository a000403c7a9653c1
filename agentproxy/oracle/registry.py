"""The registry of runners and their credentials: SQLAlchemy Core, in SQLite or PostgreSQL.

Command line and oracles write it; every change is an audit record first, and raises the generation, in the same
transaction that notes how far the log has been applied. All of it blocks: the oracle calls it in worker threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol, Self

import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from agentproxy.oracle import schema, statements
from agentproxy.oracle.changes import Change, parse_change
from agentproxy.oracle.credentials import CertificateEntry, Credentials, RunnerEntry, TokenEntry, TokenKind
from agentproxy.oracle.database import Database
from agentproxy.protocol.errors import BackendError, BlindOracleError, ConfigError, RemoteProtocolError
from agentproxy.protocol.signer_answers import CredentialRecord, CredentialRecords
from agentproxy.protocol.times import format_time, parse_time

__all__ = ["Journal", "Registry", "RegistryError"]


class Journal(Protocol):
    """The audit log, as far as the registry needs it; `agentproxy.oracle.journal` is the real one. It blocks."""

    def node(self) -> str:
        """Whose log it is."""

    def write(self, change: Change) -> int:
        """Record a change; on return the disk has it. Its sequence."""

    def read(self, after: int) -> CredentialRecords:
        """Some of the records behind `after`."""


class RegistryError(BlindOracleError):
    """The registry is out of reach, locked, full or damaged; a retry may help."""


class Registry:
    """One database, opened anew for each operation, so that a file that is gone is noticed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine = database.engine()

    @classmethod
    def create(cls, database: Database) -> Self:
        """Make an empty registry.

        Raises:
            ConfigError: something is there already, or nothing can be made there.
        """
        database.create()
        registry = cls(database)
        registry._upgrade()
        return registry

    @classmethod
    def open(cls, database: Database) -> Self:
        """Open an existing registry.

        Raises:
            ConfigError: it is missing, is no registry, or belongs to another version.
        """
        database.require()
        registry = cls(database)
        try:
            with registry._reading() as connection:
                version = schema.version(connection)
            if version not in {schema.VERSION, ""}:
                registry._upgrade()
        except RegistryError as error:
            reason = str(error).removeprefix(f"{database}: ")
            raise ConfigError(f"{database}: cannot be read as a registry: {reason}") from error
        if not version:
            raise ConfigError(f"{database}: no registry, or one of a version before the first")
        return registry

    def _upgrade(self) -> None:
        try:
            # Another process may upgrade just now.
            with self._engine.connect() as connection:
                self._database.begin_upgrade(connection)
                schema.upgrade(connection)
                connection.commit()
        except CommandError as error:
            hint = "a later release made it: install that one again, or put back the copy from before"
            raise ConfigError(f"{self._database}: the registry belongs to another version: {error}", hint) from error
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def mark(self) -> object:
        """What differs after whatever was written since; None: only reading tells.

        Raises:
            RegistryError: the registry is gone.
        """
        try:
            return self._database.mark()
        except OSError as error:
            raise RegistryError(f"{self._database}: {error.strerror}") from error

    def generation(self) -> int:
        """Changes whenever credentials change; also when an older copy is put in place."""
        with self._reading() as connection:
            value: int = connection.execute(sa.select(schema.generation.c.value)).scalar_one()
            return value

    def snapshot(self) -> Credentials:
        """All of it, as of one moment."""
        with self._reading() as connection:
            value = connection.execute(sa.select(schema.generation.c.value)).scalar_one()
            runners = [_runner(row) for row in connection.execute(sa.select(schema.runners))]
            tokens = [_token(row) for row in connection.execute(sa.select(schema.tokens))]
            certificates = [_certificate(row) for row in connection.execute(sa.select(schema.certificates))]
            revoked = connection.execute(sa.select(schema.revoked_public_keys.c.sha256)).scalars().all()
        return Credentials(
            value,
            {entry.name: entry for entry in runners},
            {entry.sha256: entry for entry in tokens},
            {entry.sha256: entry for entry in certificates},
            frozenset(map(bytes.fromhex, revoked)),
        )

    def change(self, journal: Journal, change: Change) -> None:
        """Have a change recorded, then make it; what was recorded and not made before is made first.

        Nobody else changes anything meanwhile, so changes are made in the order of their records. When this fails
        behind the record, or is killed there, the next change or the next start of an oracle makes the change.

        Raises:
            ConfigError: it cannot be: no such runner or token, or it exists already. Nothing was recorded.
            RefusedError: credentials that have ended, new ones in the place of such, or too many. Nothing was recorded.
            BackendError: the signer did not record it, or does not tell what it has recorded.
            RegistryError: locked, full or gone.
        """
        with self._transaction() as connection:
            self._lock(connection)
            node = journal.node()
            self._catch_up(connection, journal, node)
            statements.check(connection, change, datetime.now(UTC))
            sequence = journal.write(change)
            statements.apply(connection, change, datetime.now(UTC))
            _set_applied(connection, node, sequence)
            _next_generation(connection)

    def catch_up(self, journal: Journal) -> int:
        """Make the changes that the log knows and we do not; how many those were.

        Raises:
            BackendError: the signer does not tell them, the log ends before what we know, or it is of a later version.
            RegistryError: locked, full or gone.
        """
        with self._transaction() as connection:
            self._lock(connection)
            return self._catch_up(connection, journal, journal.node())

    def _catch_up(self, connection: sa.Connection, journal: Journal, node: str) -> int:
        of_node = sa.select(schema.applied.c.sequence).where(schema.applied.c.node == node)
        before = after = connection.execute(of_node).scalar() or 0
        number = 0
        while True:
            page = journal.read(after)
            for record in page.records:
                statements.apply(connection, _parsed(record), record.time)
            number += len(page.records)
            if page.through <= after or page.through == page.last:
                break
            after = page.through
        if page.through < page.last:
            raise BackendError(f"the signer tells nothing of its log behind record {after}")
        if page.through != before:
            _set_applied(connection, node, page.through)
        if number:
            _next_generation(connection)
        return number

    def note_use(self, used: dict[str, datetime]) -> None:
        """Keep when tokens (by id) were last used; not a change of credentials, so the generation stays."""
        with self._transaction() as connection:
            for token_id, moment in used.items():
                connection.execute(
                    sa.update(schema.tokens).where(schema.tokens.c.id == token_id).values(last_used=_text(moment))
                )

    def find_token(self, sha256: bytes) -> TokenEntry | None:
        """The token with this SHA-256."""
        return self.snapshot().tokens.get(sha256)

    def find_certificate(self, sha256: bytes) -> CertificateEntry | None:
        """The certificate with this SHA-256 of its DER form."""
        return self.snapshot().certificates.get(sha256)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                self._database.begin_snapshot(connection)
                yield connection
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def _failed(self, error: SQLAlchemyError) -> RegistryError:
        # A driver's words, such as "disk I/O error", do not say which of several files or hosts it was.
        return RegistryError(f"{self._database}: {_reason(error)}")

    @staticmethod
    def _lock(connection: sa.Connection) -> None:
        # The first statement of a transaction that writes: it keeps other writers out, in every kind of database.
        connection.execute(sa.update(schema.generation).values(value=schema.generation.c.value))


def _next_generation(connection: sa.Connection) -> None:
    connection.execute(sa.update(schema.generation).values(value=schema.generation.c.value + 1))


def _set_applied(connection: sa.Connection, node: str, sequence: int) -> None:
    connection.execute(sa.delete(schema.applied).where(schema.applied.c.node == node))
    connection.execute(sa.insert(schema.applied).values(node=node, sequence=sequence))


def _parsed(record: CredentialRecord) -> Change:
    try:
        return parse_change(record.operation, record.details)
    except RemoteProtocolError as error:
        raise BackendError(f"record {record.sequence} of the audit log: {error}") from error


def _reason(error: SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    return " ".join(str(original or error).split())


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def _time(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)


def _runner(row: sa.Row[tuple[object, ...]]) -> RunnerEntry:
    return RunnerEntry(row.name, parse_time(row.created), row.disabled)


def _token(row: sa.Row[tuple[object, ...]]) -> TokenEntry:
    times = _time(row.expires), _time(row.revoked), _time(row.last_used)
    kind, confirmed = TokenKind(row.kind), _time(row.confirmed)
    sha256, created = bytes.fromhex(row.sha256), parse_time(row.created)
    return TokenEntry(sha256, row.id, row.runner, created, *times, kind, row.replaces, confirmed)


def _certificate(row: sa.Row[tuple[object, ...]]) -> CertificateEntry:
    digests = bytes.fromhex(row.sha256), bytes.fromhex(row.public_key_sha256)
    return CertificateEntry(*digests, row.runner, parse_time(row.created), _time(row.expires), row.token)
