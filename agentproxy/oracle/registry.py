"""The registry of runners and their credentials: SQLAlchemy Core, SQLite in WAL mode by default.

The command line writes it, the oracle reads it; every change raises the generation, in the same transaction. All of
it blocks: the oracle calls it in worker threads. Whoever changes something has the audit record written first.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from agentproxy.oracle import schema
from agentproxy.oracle.credentials import CertificateEntry, Credentials, RunnerEntry, TokenEntry
from agentproxy.protocol.errors import BlindOracleError, ConfigError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.wire import format_time, parse_time

__all__ = ["Registry", "RegistryError"]

_BUSY_SECONDS = 2.0  # how long a writer waits for another; readers never wait in WAL mode


class RegistryError(BlindOracleError):
    """The registry is out of reach, locked, full or damaged; a retry may help."""


class Registry:
    """One database, opened anew for each operation, so that a file that is gone is noticed."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make an empty registry, readable by us alone.

        Raises:
            ConfigError: something is there already, or nothing can be made there.
        """
        try:
            path.touch(mode=0o600, exist_ok=False)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be made: {error.strerror}") from error
        registry = cls(_engine(path))
        with registry._changing() as connection:
            schema.create(connection)
        return registry

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing registry.

        Raises:
            ConfigError: it is missing, is no registry, or belongs to another version.
        """
        if not path.is_file():
            raise ConfigError(f"{path}: no registry there", "blind-oracle init makes one")
        registry = cls(_engine(path))
        try:
            with registry._reading() as connection:
                version = schema.version(connection)
        except RegistryError as error:
            raise ConfigError(f"{path}: cannot be read as a registry: {error}") from error
        if version != schema.VERSION:
            raise ConfigError(f"{path}: a registry of version {version}, expected {schema.VERSION}")
        return registry

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

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

    def add_runner(self, name: str) -> None:
        """Add a runner, which can do nothing yet.

        Raises:
            ConfigError: it exists.
        """
        check_name(name, "runner")
        with self._changing() as connection:
            if self._has(connection, name):
                raise ConfigError(f"runner {name} exists already")
            connection.execute(sa.insert(schema.runners).values(name=name, created=_now(), disabled=False))

    def set_disabled(self, name: str, *, disabled: bool) -> None:
        """Disable a runner with all its credentials, or enable it again.

        Raises:
            ConfigError: there is no such runner.
        """
        with self._changing() as connection:
            self._check(connection, name)
            connection.execute(sa.update(schema.runners).where(schema.runners.c.name == name).values(disabled=disabled))

    def remove_runner(self, name: str) -> None:
        """Remove a runner; its tokens go, its certificates' public keys stay revoked for ever.

        Raises:
            ConfigError: there is no such runner.
        """
        with self._changing() as connection:
            self._check(connection, name)
            of_runner = schema.certificates.c.runner == name
            keys = connection.execute(sa.select(schema.certificates.c.public_key_sha256).where(of_runner)).scalars()
            for key in set(keys.all()):
                _revoke_public_key(connection, key)
            connection.execute(sa.delete(schema.tokens).where(schema.tokens.c.runner == name))
            connection.execute(sa.delete(schema.certificates).where(of_runner))
            connection.execute(sa.delete(schema.runners).where(schema.runners.c.name == name))

    def add_token(self, runner: str, sha256: bytes, expires: datetime | None) -> TokenEntry:
        """Give a runner a token, of which we get to see the SHA-256 only.

        Raises:
            ConfigError: there is no such runner, or the token exists.
        """
        entry = TokenEntry(sha256, sha256.hex()[:12], runner, datetime.now(UTC), expires)
        with self._changing() as connection:
            self._check(connection, runner)
            connection.execute(
                sa.insert(schema.tokens).values(
                    sha256=sha256.hex(), id=entry.id, runner=runner, created=_now(), expires=_text(expires)
                )
            )
        return entry

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token for ever.

        Raises:
            ConfigError: there is no such token.
        """
        with self._changing() as connection:
            unrevoked = (schema.tokens.c.id == token_id) & schema.tokens.c.revoked.is_(None)
            known = connection.execute(sa.select(schema.tokens.c.id).where(schema.tokens.c.id == token_id)).first()
            if known is None:
                raise ConfigError(f"no token {token_id}", "blind-oracle token list shows them")
            connection.execute(sa.update(schema.tokens).where(unrevoked).values(revoked=_now()))

    def expire_token(self, token_id: str, expires: datetime) -> None:
        """Let a token end at `expires` at the latest: the overlap of a rotation."""
        with self._changing() as connection:
            later = schema.tokens.c.expires.is_(None) | (schema.tokens.c.expires > format_time(expires))
            connection.execute(
                sa.update(schema.tokens).where((schema.tokens.c.id == token_id) & later).values(expires=_text(expires))
            )

    def add_certificate(self, runner: str, sha256: bytes, public_key_sha256: bytes, expires: datetime | None) -> None:
        """Let a runner come with this certificate.

        Raises:
            ConfigError: there is no such runner.
        """
        with self._changing() as connection:
            self._check(connection, runner)
            connection.execute(
                sa.insert(schema.certificates).values(
                    sha256=sha256.hex(),
                    public_key_sha256=public_key_sha256.hex(),
                    runner=runner,
                    created=_now(),
                    expires=_text(expires),
                )
            )

    def revoke_public_key(self, sha256: bytes) -> None:
        """Revoke every certificate with this public key for ever, also those that we do not know."""
        with self._changing() as connection:
            _revoke_public_key(connection, sha256.hex())

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
                yield connection
        except SQLAlchemyError as error:
            raise RegistryError(_reason(error)) from error

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise RegistryError(_reason(error)) from error

    @contextmanager
    def _changing(self) -> Iterator[sa.Connection]:
        with self._transaction() as connection:
            yield connection
            connection.execute(sa.update(schema.generation).values(value=schema.generation.c.value + 1))

    @staticmethod
    def _has(connection: sa.Connection, runner: str) -> bool:
        found = connection.execute(sa.select(schema.runners.c.name).where(schema.runners.c.name == runner))
        return found.first() is not None

    def _check(self, connection: sa.Connection, runner: str) -> None:
        if not self._has(connection, runner):
            raise ConfigError(f"no runner {runner}", f"blind-oracle runner add {runner}")


def _engine(path: Path) -> sa.Engine:
    def connect() -> sqlite3.Connection:
        # mode=rw: a database that is gone must be an error, not a new and empty one.
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=_BUSY_SECONDS)
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
        return connection

    return sa.create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _revoke_public_key(connection: sa.Connection, sha256: str) -> None:
    known = sa.select(schema.revoked_public_keys.c.sha256).where(schema.revoked_public_keys.c.sha256 == sha256)
    if connection.execute(known).first() is None:
        connection.execute(sa.insert(schema.revoked_public_keys).values(sha256=sha256, revoked=_now()))


def _reason(error: SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    return " ".join(str(original or error).split())


def _now() -> str:
    return format_time(datetime.now(UTC))


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def _time(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)


def _runner(row: sa.Row[tuple[object, ...]]) -> RunnerEntry:
    return RunnerEntry(row.name, parse_time(row.created), row.disabled)


def _token(row: sa.Row[tuple[object, ...]]) -> TokenEntry:
    times = _time(row.expires), _time(row.revoked), _time(row.last_used)
    return TokenEntry(bytes.fromhex(row.sha256), row.id, row.runner, parse_time(row.created), *times)


def _certificate(row: sa.Row[tuple[object, ...]]) -> CertificateEntry:
    digests = bytes.fromhex(row.sha256), bytes.fromhex(row.public_key_sha256)
    return CertificateEntry(*digests, row.runner, parse_time(row.created), _time(row.expires))
