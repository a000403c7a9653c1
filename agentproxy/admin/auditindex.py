"""An index of the audit log in SQLite: where records are, never what they say.

It lies in a cache directory, is brought up to date before each search, and may be deleted at any time. What it points
at is read back from the log and compared with what was looked for. For each segment it remembers the hash of the last
line that it has seen: a log that was rewritten or archived is indexed anew.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from agentproxy.admin.auditfold import Place, fold
from agentproxy.admin.auditquery import Query, file_name, job_values, package_name, without_epoch
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.values import frozen
from agentproxy.signer.grammar import is_canonical
from agentproxy.signer.record import AuditRecord, hash_of_line
from agentproxy.signer.segment import (
    Segment,
    last_line,
    lines_of,
    list_segments,
    mapped_file,
    open_segment,
    whole_length,
)

__all__ = ["AuditIndex", "Found"]

_FORMAT = 5  # PRAGMA user_version
_BUSY_SECONDS = 60.0  # another search may be indexing a whole log
_CHUNK = 10_000  # records that one statement inserts
_SCHEMA = """
CREATE TABLE segments (first INTEGER PRIMARY KEY, path TEXT NOT NULL, bytes INTEGER NOT NULL, last BLOB NOT NULL);
CREATE TABLE records (sequence INTEGER PRIMARY KEY, first INTEGER NOT NULL, offset INTEGER NOT NULL,
  length INTEGER NOT NULL, time TEXT NOT NULL, outcome TEXT NOT NULL, runner TEXT, key TEXT, hash_algorithm INTEGER,
  digest TEXT, request TEXT, package TEXT, plain TEXT, name TEXT, file TEXT, signature TEXT, channel TEXT NOT NULL,
  reported TEXT);
CREATE TABLE jobs (value TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (value, sequence)) WITHOUT ROWID;
CREATE INDEX by_time ON records (time);
CREATE INDEX by_runner ON records (runner, time);
CREATE INDEX by_digest ON records (digest) WHERE digest IS NOT NULL;
CREATE INDEX by_signature ON records (signature) WHERE signature IS NOT NULL;
CREATE INDEX by_request ON records (request) WHERE request IS NOT NULL;
CREATE INDEX by_channel ON records (channel, time);
CREATE INDEX by_name ON records (name) WHERE name IS NOT NULL;
"""
_STALE = "blind-oracle audit query --rebuild makes the index anew; audit verify checks the log"


class _ClaimMembers(TypedDict, total=False):
    package: str
    file: str
    job: dict[str, str]


class _AssertedMembers(TypedDict):
    runner: str | None
    channel: str
    claims: _ClaimMembers | None


class _Members(TypedDict):
    """What the index takes from a line, of the types that the grammar lets through."""

    sequence: int
    time: str
    outcome: str
    key: str | None
    hash_algorithm: int | None
    digest: str | None
    request: str | None
    signature_sha256: str | None
    asserted: _AssertedMembers
    details: dict[str, str]


_Text = str | None
_Row = tuple[
    int, int, int, int, str, str, _Text, _Text, int | None, _Text, _Text, _Text, _Text, _Text, _Text, _Text, str, _Text
]  # fmt: skip


@frozen
class Found:
    """A record, and where it was repeated; `auditfold` says what a repetition is."""

    record: AuditRecord
    line: bytes
    sequences: tuple[int, ...]  # of all its records, with its own


class AuditIndex:
    """The index of one log, up to date when `open` returns."""

    def __init__(self, database: sqlite3.Connection, directory: Path) -> None:
        self._database = database
        self._directory = directory
        self._files: dict[int, int] = {}  # descriptors by the segment's first sequence

    @classmethod
    def open(cls, directory: Path, cache: Path, *, rebuild: bool = False) -> Self:
        """Open or make the index of the log in `directory`.

        Raises:
            ConfigError: the log or the cache cannot be used.
        """
        name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
        path = cache / f"audit-{name}.sqlite"
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            if rebuild:
                _remove(path)
            try:
                return cls._up_to_date(path, directory)
            except sqlite3.OperationalError:  # locked, or no space: somebody may be writing to it just now
                raise
            except sqlite3.DatabaseError:  # of another version, or damaged: it holds nothing that is lost
                _remove(path)
                return cls._up_to_date(path, directory)
        except (OSError, sqlite3.Error) as error:
            hint = "another search may be indexing, or the disk is full; --cache DIR names another place"
            raise ConfigError(f"{path}: no index can be made: {error}", hint) from error

    @classmethod
    def _up_to_date(cls, path: Path, directory: Path) -> Self:
        database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous = OFF")  # a torn index is found out, and made anew
            index = cls(database, directory)
            database.execute("BEGIN IMMEDIATE")
            index._update()
            database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        return index

    def find(self, query: Query) -> Iterator[Found]:
        """The records that fit, oldest first; a record and its repetitions are one.

        Raises:
            ConfigError: the log is not what was indexed.
        """
        for place in self._places(query):
            record, line = self._read(place)
            if not query.fits(record):
                raise ConfigError(f"record {place.sequence} is not what the index says", _STALE)
            yield Found(record, line, tuple(place.sequences))

    def _places(self, query: Query) -> list[Place]:
        conditions = query.conditions()
        where = " AND ".join(["1", *(text for text, _ in conditions)])
        values = [value for _, part in conditions for value in part]
        statement = (
            "SELECT sequence, first, offset, length, runner, coalesce(reported, request), hash_algorithm, digest, "  # noqa: S608  texts of `Query`
            f"outcome, key, signature FROM records WHERE {where} ORDER BY sequence"
        )
        try:
            return fold(Place.of_row(*row) for row in self._database.execute(statement, values))
        except sqlite3.Error as error:
            raise ConfigError(f"the index cannot be searched: {error}", _STALE) from error

    def _read(self, place: Place) -> tuple[AuditRecord, bytes]:
        if place.first not in self._files:
            (path,) = self._database.execute("SELECT path FROM segments WHERE first = ?", (place.first,)).fetchone()
            self._files[place.first] = open_segment(self._directory / Path(path).name)
        line = os.pread(self._files[place.first], place.length, place.offset)
        try:
            record = AuditRecord.parse(line)
        except RemoteProtocolError as error:
            raise ConfigError(f"record {place.sequence} is not where the index says: {error}", _STALE) from error
        if record.sequence != place.sequence:
            raise ConfigError(f"record {place.sequence} is not where the index says", _STALE)
        return record, line

    def close(self) -> None:
        """Release the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _update(self) -> None:
        segments = list_segments(self._directory)
        if not segments:
            raise ConfigError(f"{self._directory}: no audit log here", "segments are named NODE-000000000001.jsonl")
        if not self._fits(segments):
            self._empty()
        known = dict(self._database.execute("SELECT first, bytes FROM segments"))
        for segment in segments:
            self._add(segment, known.get(segment.first, 0))

    def _fits(self, segments: list[Segment]) -> bool:
        """Whether what was indexed is still there, unchanged."""
        if self._database.execute("PRAGMA user_version").fetchone() != (_FORMAT,):
            return False
        by_path = {segment.path.name: segment for segment in segments}
        for path, size, last in self._database.execute("SELECT path, bytes, last FROM segments"):
            if path not in by_path:
                return False
            with mapped_file(by_path[path].path) as data:
                if len(data) < size or hash_of_line(last_line(data, size)) != last:
                    return False
        return True

    def _empty(self) -> None:
        for (name,) in self._database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            self._database.execute(f'DROP TABLE "{name}"')
        for statement in _SCHEMA.split(";"):
            self._database.execute(statement)
        self._database.execute(f"PRAGMA user_version = {_FORMAT}")

    def _add(self, segment: Segment, offset: int) -> None:
        with mapped_file(segment.path) as data:
            end = whole_length(data[offset:]) + offset if offset else whole_length(data)
            if end == offset:
                return
            rows: list[_Row] = []
            jobs: list[tuple[str, int]] = []
            for line in lines_of(data, offset, end):
                row, values = _indexed(line, segment, offset)
                offset += len(line) + 1
                rows.append(row)
                jobs += [(value, row[0]) for value in values]
                if len(rows) >= _CHUNK:
                    self._insert(rows, jobs)
                    rows, jobs = [], []
            self._insert(rows, jobs)
            state = (segment.first, segment.path.name, end, hash_of_line(last_line(data, end)))
        self._database.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?)", state)

    def _insert(self, rows: list[_Row], jobs: list[tuple[str, int]]) -> None:
        self._database.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
        )
        self._database.executemany("INSERT OR IGNORE INTO jobs VALUES (?, ?)", jobs)


def _indexed(line: bytes, segment: Segment, offset: int) -> tuple[_Row, set[str]]:
    # Not through AuditRecord.parse, which takes several times as long: what is found is read by it.
    if not is_canonical(line):
        hint = "blind-oracle audit verify says which, and what kind of damage it is"
        raise ConfigError(f"{segment.path}: a record is damaged, at byte {offset}", hint)
    members: _Members = json.loads(line)
    claims = members["asserted"]["claims"] or {}
    package, file = claims.get("package"), claims.get("file")
    row = (
        members["sequence"],
        segment.first,
        offset,
        len(line),
        members["time"],
        members["outcome"],
        members["asserted"]["runner"],
        members["key"],
        members["hash_algorithm"],
        members["digest"],
        members["request"],
        package,
        None if package is None else without_epoch(package),
        None if package is None else package_name(package),
        None if file is None else file_name(file),
        members["signature_sha256"],
        members["asserted"]["channel"],
        _reported(members),
    )
    return row, job_values(claims.get("job", {}))


def _reported(members: _Members) -> str | None:
    """What names a relay's own record for ever, however often it is reported; with its hash, so a forged twin shows."""
    details = members["details"]
    if members["asserted"]["channel"] != "fallback" or "journal" not in details:
        return None
    return "/".join(details.get(name, "") for name in ("journal", "sequence", "hash"))


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-journal"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(name).unlink()
