"""Copies what an oracle cannot make again into a directory, while it runs: audit log, registry, configuration.

The registry goes first and the log behind it, since a restored oracle replays the log from where the registry ends. The
log only ever grows, so each copy adds to the last one; a log that does not continue the copy stops everything, for then
one of the two was cut or rewritten. Secret keys do not belong into such a copy and are left out.
"""

import mmap
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agentproxy.admin.changing import changing
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.database import SqliteFile
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.values import frozen
from agentproxy.runtime.config import load
from agentproxy.runtime.files import make_directory, read_beginning, sync_directory, write_atomically
from agentproxy.runtime.ownplace import check_place
from agentproxy.signer.config import SignerConfig
from agentproxy.signer.logkey import LogPublicKey, public_key_path
from agentproxy.signer.segment import list_segments, mapped_file, whole_length
from agentproxy.signer.verifylog import verify

__all__ = ["Backup", "Copied", "Drill"]

_COMPARED = 65_536  # bytes before the end of what was copied: some sixty records
_CHUNK = 1 << 20


@frozen
class Copied:
    """What one run added."""

    log_bytes: int
    registry: bool  # False: it lies in PostgreSQL, which has means of its own


@frozen
class Drill:
    """What a restored oracle would begin with."""

    records: int
    head: Head | None
    covered: int  # the last record under a checkpoint of the given public key
    runners: int | None  # None: the registry is not in this copy
    behind: int | None  # records that are newer than the registry: changes among them are replayed


@frozen
class Backup:
    """A directory with copies, readable by us alone."""

    root: Path

    @property
    def audit(self) -> Path:
        """The audit log's copy, which `blind-oracle audit` reads like the log itself."""
        return self.root / "audit"

    @property
    def registry(self) -> Path:
        """The registry's copy."""
        return self.root / "registry.sqlite"

    @property
    def configuration(self) -> Path:
        """Everything that operators write, and certificates."""
        return self.root / "configuration"

    def take(self, oracle: OracleConfig, oracle_file: Path, signer: SignerConfig) -> Copied:
        """Add what is new.

        Raises:
            ConfigError: something cannot be read or written, or the log does not continue the copy.
        """
        try:
            make_directory(self.root, 0o700)
            check_place(self.root, "have us write elsewhere, and read or change the copy")
            for directory in (self.audit, self.configuration):
                make_directory(directory, 0o700)
            with changing(self.audit):  # a timer's run and an operator's would add the same records twice
                added = self._take(oracle, oracle_file, signer)
        except OSError as error:
            raise ConfigError(f"{error.filename or self.root}: {error.strerror}") from error
        return Copied(added, oracle.registry is not None)

    def _take(self, oracle: OracleConfig, oracle_file: Path, signer: SignerConfig) -> int:
        log = signer.audit.directory
        # First: the registry in the copy may be the last one from before the log was cut or rewritten.
        self._check_continued(log)
        if oracle.registry is not None:
            self._copy_registry(oracle.registry)
        added = sum(self._append(path) for path in _log_files(log))
        for name, path in _configuration(oracle, oracle_file, signer):
            target = self.configuration / name
            make_directory(target.parent, 0o700)
            write_atomically(target, read_beginning(path, -1), 0o600)
        for directory in (self.audit, self.root):  # the names of new files, too, are on disk then
            sync_directory(directory)
        return added

    def drill(self, keys: tuple[LogPublicKey, ...]) -> Drill:
        """Look whether an oracle could start from this copy.

        Raises:
            ConfigError: it could not; with what is wrong.
        """
        report = verify(self.audit, keys=keys, archived=True)
        if report.damage is not None:
            raise ConfigError(f"{self.audit}: {report.damage}", "blind-oracle audit verify says more")
        last = 0 if report.head is None else report.head.sequence
        runners, applied = self._registry_facts(report.head)
        behind = None if applied is None else last - applied
        return Drill(report.records, report.head, report.covered, runners, behind)

    def _registry_facts(self, head: Head | None) -> tuple[int | None, int | None]:
        if not self.registry.exists():
            self._check_needless()
            return None, None
        try:
            with closing(sqlite3.connect(f"{self.registry.absolute().as_uri()}?mode=ro", uri=True)) as database:
                ((verdict,),) = database.execute("PRAGMA integrity_check").fetchall()
                (runners,) = database.execute("SELECT count(*) FROM runners").fetchone()
                applied = dict(database.execute("SELECT node, sequence FROM applied").fetchall())
        except (sqlite3.Error, ValueError) as error:
            raise ConfigError(f"{self.registry}: cannot be read as a registry: {error}") from error
        if verdict != "ok":
            raise ConfigError(f"{self.registry}: damaged: {verdict}")
        last = 0 if head is None else head.sequence
        known = max(applied.values(), default=0) if head is None else applied.get(head.node, 0)
        if known > last:
            raise ConfigError(
                f"{self.audit}: the log ends with record {last}, and the registry knows record {known}",
                "copy both again: an oracle does not start from these",
            )
        return runners, known

    def _check_needless(self) -> None:
        """See that the copied configuration, too, knows of no file with the registry.

        Raises:
            ConfigError: it names one, or cannot be read.
        """
        config = self.configuration / "oracle.yaml"
        if load(config, OracleConfig).registry is not None:
            raise ConfigError(
                f"{self.registry}: is missing: {config} says that the registry is a file",
                "blind-oracle backup take copies it; docs/OPERATIONS.md says how to do without",
            )

    def _copy_registry(self, path: Path) -> None:
        temporary = self.registry.with_name(".registry.new")
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600)
        try:
            SqliteFile(path).check()
            # SQLite's own copy: a file that is being written cannot be copied together with its write-ahead log.
            with (
                closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(temporary)) as target,
            ):
                source.backup(target)
                # An emptied file is a database, too, and must not take the place of the last good copy.
                target.execute("SELECT count(*) FROM runners").fetchone()
                target.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as error:
            temporary.unlink(missing_ok=True)
            hint = f"{self.registry}: stays as it was" if self.registry.exists() else ""
            raise ConfigError(f"{path}: cannot be copied: {error}", hint) from error
        _sync(temporary)
        temporary.replace(self.registry)

    def _check_continued(self, log: Path) -> None:
        """See that the log has all that the copy has; of the oldest segments, that may have been archived, the names.

        Raises:
            ConfigError: it has not, or it is none.
        """
        segments = list_segments(log)
        if not segments:
            raise ConfigError(f"{log}: no audit log here", "segments are named NODE-000000000001.jsonl")
        for kept in list_segments(self.audit):
            is_of_it = kept.node == segments[-1].node and kept.first <= segments[-1].first
            if not is_of_it and kept.path.stat().st_size:
                raise _not_continued(segments[-1].path, kept.path)
        for path in _log_files(log):
            with self._compared(path):
                pass

    @contextmanager
    def _compared(self, path: Path) -> Iterator[tuple[mmap.mmap | bytes, int, int]]:
        """One file's content; what its copy has of it already, and how much of it is whole."""
        target = self.audit / path.name
        with mapped_file(path, sealed=path.suffix != ".jsonl") as source:
            end = whole_length(source) if path.suffix in {".jsonl", ".checkpoints"} else len(source)
            have = target.stat().st_size if target.exists() else 0
            if have > end or not _continues(source, target, have):
                raise _not_continued(path, target)
            yield source, have, end

    def _append(self, path: Path) -> int:
        """Add to the copy of one file what it is short of; how many bytes that were."""
        target = self.audit / path.name
        with self._compared(path) as (source, have, end):
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                for start in range(have, end, _CHUNK):
                    file.write(source[start : min(end, start + _CHUNK)])
                file.flush()
                os.fsync(descriptor)
        return end - have


def _not_continued(path: Path, target: Path) -> ConfigError:
    return ConfigError(
        f"{path}: does not continue {target}: one of the two was cut or rewritten, or is another oracle's",
        "nothing was copied over; blind-oracle audit verify, on both, says which",
    )


def _continues(source: mmap.mmap | bytes, target: Path, have: int) -> bool:
    if not have:
        return True
    start = max(0, have - _COMPARED)
    with target.open("rb") as file:
        file.seek(start)
        kept = file.read(_COMPARED)
    return kept == source[start:have]


def _log_files(directory: Path) -> Iterator[Path]:
    """Checkpoints first: each then finds its record in what is copied behind it."""
    yield from sorted(directory.glob("*.checkpoints"))
    for segment in list_segments(directory):
        yield segment.path
        yield from segment.torn


def _configuration(oracle: OracleConfig, oracle_file: Path, signer: SignerConfig) -> Iterator[tuple[str, Path]]:
    yield "oracle.yaml", oracle_file
    yield "policy.yaml", oracle.policy
    if oracle.signer.config is not None:
        yield "signer.yaml", oracle.signer.config
    yield "keys.yaml", signer.keys_file
    yield "authority.crt", signer.authority.certificate
    yield "server.crt", oracle.tls.certificate
    yield "audit.pub", public_key_path(signer.audit.directory, signer.node)
    for path in sorted(oracle.certificates.glob("*.pgp")):
        yield f"certificates/{path.name}", path


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
