"""The file of checkpoints: it decides when one is due and appends it. Checking them is `checkpointcheck`'s part.

A missing checkpoint costs proof and no record, so a failure here stops no signature; the next one covers all before it.
"""

import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Self

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.runtime.files import write_atomically
from agentproxy.signer.checkpoint import Checkpoint, checkpoints_path
from agentproxy.signer.logkey import LogKey, public_key_path

__all__ = ["CHECKPOINT_RECORDS", "CHECKPOINT_SECONDS", "CheckpointFile", "write_all"]

logger = logging.getLogger(__name__)

# What an attacker who takes the signer can still rewrite is what no checkpoint covers yet.
CHECKPOINT_RECORDS = 1000  # a checkpoint costs one more fdatasync; a thousandth of one per record
CHECKPOINT_SECONDS = 300.0
_MODE = 0o640  # auditors read through the group
_TAIL = 4096  # bytes: many times a line


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """`os.pwrite` until all is written.

    Raises:
        OSError: some of it may be written.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class CheckpointFile:
    """The checkpoints of one log, open for appending by the signer that holds the log's lock.

    Attributes:
        key: what signs.
        last: the newest checkpoint; None when there is none.
    """

    def __init__(self, descriptor: int, key: LogKey) -> None:
        self.key = key
        self._key_id = key.public.id
        self.last: Checkpoint | None = None
        self._fd = descriptor
        self._size = os.fstat(descriptor).st_size
        self._failed = False
        self._take_end()

    @classmethod
    def open(cls, directory: Path, node: str, key: LogKey) -> Self:
        """Open the file, made when it is not there, and put the public key beside it.

        Raises:
            ConfigError: one of the two cannot be written.
        """
        path, public = checkpoints_path(directory, node), public_key_path(directory, node)
        try:
            if not public.exists() or public.read_bytes() != key.public.pem:
                write_atomically(public, key.public.pem, 0o644)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}", "the signer must own it") from error
        return cls(descriptor, key)

    def take(self, head: Head, now: datetime) -> Checkpoint:
        """Sign a head that is on disk; the last checkpoint, when that is the same place.

        Raises:
            OSError: it is not written.
        """
        if self.last is not None and (self.last.head, self.last.key) == (head, self._key_id):
            return self.last
        checkpoint = Checkpoint.sign(head, now, self.key)
        data = checkpoint.line() + b"\n"
        os.ftruncate(self._fd, self._size)  # what a failed attempt left
        write_all(self._fd, data, self._size)
        os.fdatasync(self._fd)
        self._size += len(data)
        self.last = checkpoint
        return checkpoint

    def keep_up(self, head: Head | None, now: datetime, *, sealing: bool = False) -> None:
        """Take a checkpoint when one is due; `sealing` says that the head ends a segment, or the signer's run."""
        if head is None or not (sealing or self._is_due(head, now)):
            return
        try:
            self.take(head, now)
            self._failed = False
        except OSError as error:
            if not self._failed:
                logger.error("no checkpoint of the audit log, later ones will cover it: %s", error)  # noqa: TRY400  no bug of ours
            self._failed = True

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)

    def _is_due(self, head: Head, now: datetime) -> bool:
        if self.last is None or self.last.key != self._key_id:
            return True
        behind = head.sequence - self.last.head.sequence
        # A clock that jumped back must not keep checkpoints away.
        return behind >= CHECKPOINT_RECORDS or (
            behind > 0 and abs((now - self.last.time).total_seconds()) >= CHECKPOINT_SECONDS
        )

    def _take_end(self) -> None:
        """Find the last whole line; what a crash tore behind it is written over."""
        tail = os.pread(self._fd, _TAIL, max(0, self._size - _TAIL))
        whole = tail.rfind(b"\n") + 1
        self._size -= len(tail) - whole
        try:
            self.last = Checkpoint.parse(tail[:whole].rstrip(b"\n").rpartition(b"\n")[2]) if whole else None
        except RemoteProtocolError as error:
            # A power loss can leave zeros before a newline that came later. `audit verify` will show it to a person.
            logger.warning("the last checkpoint cannot be read, a new one follows: %s", error)
