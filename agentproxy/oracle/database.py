"""Where the registry lies: in a SQLite file of one oracle, or in a PostgreSQL database that several oracles share.

What differs between the two stands here and nowhere else: how to connect, how to see everything as of one moment, and
how to keep others out while the schema changes.
"""

import contextlib
import os
import sqlite3
import stat
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen

__all__ = ["Database", "Postgresql", "SqliteFile"]

BUSY_SECONDS = 2.0  # how long a writer waits for another; readers never wait in either kind of database
# A revocation must be seen within a second, and an oracle closes itself when it saw nothing for ten: an answer that
# takes longer than this is none.
ANSWER_SECONDS = 4.0
# Times of files move in ticks of some milliseconds, and clocks may be set a little: what was written that lately may be
# written again without a trace.
_SETTLED_SECONDS = 2.0
_BESIDE = ("-journal", "-wal", "-shm")  # what SQLite keeps in files of its own
_LOST_HINT = (
    "put back its copy; without one, docs/OPERATIONS.md, Backup and restore, says how the audit log gives it back"
)
_UPGRADE_LOCK = 0x626C696E64  # any number, as long as all versions of this program use the same


class Database(Protocol):
    """One database. Its text (`str`) names it to people and holds no secret."""

    def create(self) -> None:
        """Make room for a registry; where several oracles share one, it may hold one already.

        Raises:
            ConfigError: it cannot be made.
        """

    def require(self) -> None:
        """Make sure that there is something to open.

        Raises:
            ConfigError: there is nothing.
        """

    def engine(self) -> sa.Engine:
        """An engine that connects anew for each operation, so that a database that is gone is noticed."""
        ...

    def begin_snapshot(self, connection: sa.Connection) -> None:
        """Let all following statements of this transaction see one and the same moment."""

    def begin_upgrade(self, connection: sa.Connection) -> None:
        """Begin a transaction that changes the schema, while no other does."""

    def mark(self) -> object:
        """What differs after whatever was written since, at the price of a look at files; None: only reading tells.

        Raises:
            OSError: it is gone.
        """


@frozen
class SqliteFile:
    """A file in WAL mode."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def create(self) -> None:
        """Make an empty file, readable by us alone; see `Database`."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                if os.geteuid() == 0:  # as with all that root makes in a daemon's directory
                    owner = self.path.parent.stat()
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be made: {error.strerror}") from error

    def require(self) -> None:
        """See `Database`."""
        try:
            is_there = self.path.is_file()
        except OSError as error:
            hint = "only the oracle's user and root may read it"
            raise ConfigError(f"{self.path}: {error.strerror}", hint) from error
        if not is_there:
            raise ConfigError(f"{self.path}: no registry there", _LOST_HINT)

    def check(self) -> None:
        """See that here lies what SQLite may open: the oracle's user, in whose directory root works, can lay traps.

        Nothing ends SQLite's wait for the other end of a FIFO, not even SIGTERM; and behind a link it would change
        whatever database it finds.

        Raises:
            OperationalError: something else lies here; as when SQLite itself cannot open it.
        """
        target = os.path.realpath(self.path)  # as SQLite does, which looks for the others beside the link's target
        for beside in ("", *_BESIDE):
            with contextlib.suppress(OSError):  # missing, or not for us: SQLite says so where it matters
                status = os.lstat(f"{target}{beside}")
                if not stat.S_ISREG(status.st_mode):
                    message = f"{target}{beside}: expected a file: see who put that there, and remove it"
                    raise sqlite3.OperationalError(message)
                _check_owner(self.path, status)

    def engine(self) -> sa.Engine:
        """See `Database`."""
        return sa.create_engine("sqlite://", creator=self._connect, poolclass=NullPool)

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: a database that is gone must be an error, not a new and empty one.
        place = f"file:{quote(str(self.path.absolute()))}?mode=rw"
        self.check()
        connection = sqlite3.connect(place, uri=True, timeout=BUSY_SECONDS)
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
        return connection

    def begin_snapshot(self, connection: sa.Connection) -> None:
        """See `Database`; the module begins no transaction for a SELECT by itself."""
        connection.exec_driver_sql("BEGIN")

    def begin_upgrade(self, connection: sa.Connection) -> None:
        """See `Database`; changes of the schema do not begin a transaction by themselves."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def mark(self) -> object:
        """See `Database`: the file's state and that of the log beside it, where changes may still stand alone."""
        files = [self.path.stat()]
        with contextlib.suppress(FileNotFoundError):
            files.append(self.path.with_name(f"{self.path.name}-wal").stat())
        if any(time.time() - file.st_mtime < _SETTLED_SECONDS for file in files):
            return None
        return [(file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for file in files]


def _check_owner(path: Path, status: os.stat_result) -> None:
    if os.geteuid() != 0:
        return
    # Nobody but root puts something into a directory of root's; a link there is meant.
    owner = path.parent.stat().st_uid
    if owner not in {0, status.st_uid}:
        message = f"it belongs to uid {status.st_uid}, expected {owner}, whose directory it lies in: chown it, or see"
        raise sqlite3.OperationalError(f"{message} where {path} leads")


@frozen
class Postgresql:
    """A database of a PostgreSQL server, in libpq's words: `host=db.example.org dbname=oracle sslmode=verify-full`.

    Passwords stand in libpq's own files (`passfile=`, `service=`), never in this text.
    """

    conninfo: str

    def __post_init__(self) -> None:
        if "password=" in self.conninfo.replace(" ", "") or "://" in self.conninfo:
            raise ConfigError(
                "registry_database: expected libpq's key=value words without a password",
                "a password stands in a file that passfile= names, readable by the oracle's user alone",
            )

    def __str__(self) -> str:
        return f"PostgreSQL ({self.conninfo})"

    def create(self) -> None:
        """Nothing: the database is its administrator's to make, and the first oracle fills it."""

    def require(self) -> None:
        """Reach the server; whether there is a registry shows when it is read.

        Raises:
            ConfigError: it cannot be reached, or lets us not in.
        """
        engine = self.engine()
        try:
            with engine.connect():
                pass
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", error)).split())
            raise ConfigError(f"{self}: cannot be reached: {reason}", "psql with the same words shows more") from error
        finally:
            engine.dispose()

    def engine(self) -> sa.Engine:
        """See `Database`.

        Raises:
            ConfigError: the driver is not installed.
        """
        try:
            import psycopg  # noqa: PLC0415  only an oracle with such a registry needs it
        except ImportError as error:
            hint = "pip install 'blind-oracle[postgresql]'"
            raise ConfigError("registry_database: the PostgreSQL driver is not installed", hint) from error
        milliseconds = int(ANSWER_SECONDS * 1000)
        options = f"-c statement_timeout={milliseconds} -c lock_timeout={int(BUSY_SECONDS * 1000)}"
        return sa.create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(
                self.conninfo, connect_timeout=int(ANSWER_SECONDS), tcp_user_timeout=milliseconds, options=options
            ),
            poolclass=NullPool,
        )

    def begin_snapshot(self, connection: sa.Connection) -> None:
        """See `Database`."""
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    def begin_upgrade(self, connection: sa.Connection) -> None:
        """See `Database`."""
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")

    def mark(self) -> object:
        """See `Database`."""
        return None
