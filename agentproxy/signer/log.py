"""The audit log: appends records, and says "written" only when the disk has them.

One thread at a time calls it, and every call may block. Opening a directory is `recovery`'s part, reading one is
`verifylog`'s, and what a file and its disk need is `pen`'s.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.signer_answers import CREDENTIAL_OPERATIONS, CredentialRecord
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.checkpoint import Checkpoint
from agentproxy.signer.checkpointfile import CheckpointFile
from agentproxy.signer.credentiallog import WrittenCredentials
from agentproxy.signer.logkey import LogKey
from agentproxy.signer.loglimits import LogLimits, require_room
from agentproxy.signer.pen import Pen
from agentproxy.signer.record import AuditRecord, Entry, hash_of_line
from agentproxy.signer.recovery import OpenedSegment, open_directory, open_last_segment, orphaned_tails
from agentproxy.signer.segment import ChainEnd, Segment

__all__ = ["AuditLog", "LogLimits", "LogUnavailableError"]

MAX_BATCH = 1 << 20  # bytes that one write may hold; what a crash can tear is this, what was unsynced, and zeros
# Bytes that must be free before a full disk is tried again: several usual records. With more, a small disk that has all
# its room again would stay shut; with none, the key would make signatures that nobody gets, for a last block's rest.
ROOM_TO_GO_ON = 1 << 14


class LogUnavailableError(BackendError):
    """The record could not be written, so nothing that needs it may leave; a retry may help."""


def _now() -> datetime:
    return datetime.now(UTC)


class AuditLog:
    """A directory of segments, open for appending, locked against every other signer.

    Attributes:
        trouble: why the last attempt to write failed; empty when all is well.
        head: the last record that is surely on disk; None for an empty log.
        credentials: those that this object has written, synced or not.
    """

    def __init__(self, lock: int, opened: OpenedSegment, limits: LogLimits, clock: Callable[[], datetime]) -> None:
        self._checkpoints: CheckpointFile | None = None
        self.trouble = ""
        self.head: Head | None = None
        self._lock = lock  # descriptor of the directory
        self._limits = limits
        self._clock = clock
        self._dropped = 0
        self._must_rotate = False  # the next segment's name may be on the disk
        self._take(opened)
        self._end = opened.end  # of what is written, synced or not
        self.credentials = WrittenCredentials(self._end.sequence)
        self._set_head()

    @classmethod
    def open(
        cls,
        directory: Path,
        node: str,
        limits: LogLimits | None = None,
        clock: Callable[[], datetime] = _now,
        key: LogKey | None = None,
    ) -> Self:
        """Lock the directory, check the last segment, save and record what a crash tore off.

        Args:
            key: signs checkpoints; without it there are none.

        Raises:
            ConfigError: the directory is missing, cannot be written, is used by another signer or node, or is damaged.
            LogUnavailableError: the record of the recovery could not be written.
        """
        lock = open_directory(directory)
        try:
            opened = open_last_segment(lock, directory, node, clock)
            log = cls(lock, opened, limits or LogLimits(), clock)
            log._checkpoints = None if key is None else CheckpointFile.open(directory, node, key)
            tails = orphaned_tails(opened.segment)
            if tails:
                log.append([Entry("recovered", Outcome.DONE, details=tail) for tail in tails])
        except BaseException:
            os.close(lock)
            raise
        return log

    @property
    def unsynced(self) -> bool:
        """Whether records wait for `sync`, or for a durable append."""
        return self._pen.has_unsynced

    @property
    def last_checkpoint(self) -> datetime | None:
        """When a head was signed last."""
        last = None if self._checkpoints is None else self._checkpoints.last
        return None if last is None else last.time

    def append(self, entries: Sequence[Entry], *, durable: bool = True) -> list[Head | None]:
        """Write records in this order; with `durable` the disk has them when this returns.

        Returns:
            The place of each; None for a refusal or failure that was left out since the disk is nearly full.

        Raises:
            LogUnavailableError: at least one is not written; the caller must take it that none is.
        """
        try:
            if self._pen.is_broken:
                self._repair()
            kept = self._limits.kept(entries, self._pen.descriptor)
            written = [entry for entry, keep in zip(entries, kept, strict=True) if keep]
            places = iter(self._append(written, durable=durable) if written else [])
        except OSError as error:
            raise self._failed(error) from error
        self._dropped += len(entries) - len(written)
        self.keep_up()
        return [next(places) if keep else None for keep in kept]

    def probe(self) -> None:
        """Find out whether writing works again, after trouble.

        Raises:
            LogUnavailableError: it does not.
        """
        try:
            if self._pen.is_broken:
                self._repair()
            if self.trouble:
                require_room(self._pen.descriptor, ROOM_TO_GO_ON)
        except OSError as error:
            raise self._failed(error) from error
        self.trouble = ""

    def sync(self) -> None:
        """Bring records that nobody waited for to the disk.

        Raises:
            LogUnavailableError: it did not work; they are kept in memory and written with the next record.
        """
        try:
            if self._pen.is_broken:
                self._repair()
            elif self._pen.has_unsynced:
                self._pen.sync()
                self._set_head()
        except OSError as error:
            raise self._failed(error) from error

    def keep_up(self, *, sealing: bool = False) -> None:
        """Take a checkpoint if one is due."""
        if self._checkpoints is not None:
            self._checkpoints.keep_up(self.head, self._clock(), sealing=sealing)

    def checkpoint(self) -> Checkpoint:
        """Take a checkpoint of all that is written.

        Raises:
            LogUnavailableError: it or a record before it cannot be written, or the log is empty or has no key.
        """
        self.sync()
        if self._checkpoints is None or self.head is None:
            raise LogUnavailableError("this log takes no checkpoints: it has no key, or no record")
        try:
            return self._checkpoints.take(self.head, self._clock())
        except OSError as error:
            raise LogUnavailableError(f"no checkpoint can be written: {error.strerror}") from error

    def close(self) -> None:
        """Seal the last segment, take a last checkpoint and release the directory; errors have been told before."""
        try:
            if not self._pen.is_broken:
                self._seal()
            self.keep_up(sealing=True)
        except OSError:
            self.trouble = "the last records were not synced"
        finally:
            os.close(self._pen.descriptor)
            if self._checkpoints is not None:
                self._checkpoints.close()
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, opened: OpenedSegment) -> None:
        self._segment = opened.segment
        self._pen = Pen(opened, self._limits)
        self._born = opened.born

    def _append(self, entries: Sequence[Entry], *, durable: bool) -> list[Head]:
        """Write entries, at least one, behind a record that counts what was left out before."""
        dropped = self._dropped
        summary = [_left_out(dropped)] if dropped else []
        data, ends, credentials = self._encode([*summary, *entries])
        if len(data) > MAX_BATCH and len(entries) > 1:
            half = len(entries) // 2
            return self._append(entries[:half], durable=durable) + self._append(entries[half:], durable=durable)
        self._rotate_if_due(len(data))
        synced = self._pen.write(data, durable=durable)
        places = [self._place(end) for end in ends]
        self._end = ends[-1]
        self.credentials.add(credentials)
        if synced:
            self.head = places[-1]
        self._dropped -= dropped
        self.trouble = ""
        return places[len(summary) :]

    def _encode(self, entries: Sequence[Entry]) -> tuple[bytes, list[ChainEnd], list[tuple[CredentialRecord, int]]]:
        now, node, end = self._clock(), self._segment.node, self._end
        lines, ends, credentials = [], [], []
        for entry in entries:
            line = AuditRecord(end.sequence + 1, now, node, entry, end.hash).line()
            end = ChainEnd(end.sequence + 1, hash_of_line(line))
            lines += [line, b"\n"]
            ends.append(end)
            if entry.operation in CREDENTIAL_OPERATIONS and entry.outcome is Outcome.DONE:
                credentials.append((CredentialRecord(end.sequence, now, entry.operation, entry.details), len(line)))
        return b"".join(lines), ends, credentials

    def _seal(self) -> None:
        self._pen.seal()
        self._set_head()

    def _repair(self) -> None:
        self._pen.repair()
        self._set_head()

    def _failed(self, error: OSError) -> LogUnavailableError:
        """Take back what a failed batch may have left in the file, as far as that works now."""
        self.trouble = f"{self._segment.path}: {error.strerror}"
        if self._pen.is_broken:
            try:
                self._repair()
            except OSError as second:
                self.trouble += f"; and it cannot be cut back: {second.strerror}"
        return LogUnavailableError(self.trouble)

    def _rotate_if_due(self, size: int) -> None:
        written = self._pen.size
        old = (self._clock() - self._born).total_seconds() >= self._limits.rotate_seconds
        if written == 0 or not (self._must_rotate or old or written + size > self._limits.rotate_bytes):
            return
        self._seal()
        self.keep_up(sealing=True)
        # Also when it fails halfway: by that name the next record is the new segment's, not for the old one.
        self._must_rotate = True
        segment = Segment.named(self._segment.path.parent, self._segment.node, self._end.sequence + 1)
        following = OpenedSegment.create(self._lock, segment, self._end, self._clock())
        with contextlib.suppress(OSError):  # the mode is a hint to people; what proves a segment is the chain
            os.fchmod(self._pen.descriptor, stat.S_IRUSR | stat.S_IRGRP)
        os.close(self._pen.descriptor)
        self._take(following)
        self._must_rotate = False

    def _set_head(self) -> None:
        self.head = self._place(self._end) if self._end.sequence else None

    def _place(self, end: ChainEnd) -> Head:
        return Head(self._segment.node, end.sequence, end.hash)


def _left_out(count: int) -> Entry:
    details = {"suppressed": str(count)}
    return Entry("records_left_out", Outcome.DONE, reason="the disk was nearly full", details=details)
