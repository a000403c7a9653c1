"""What relay.yaml became, kept beside it as JSON, so that a start needs no YAML.

Like Python's .pyc: it counts only while it names the SHA-256 of the very relay.yaml that is there, it is read as
strictly, and a relay that cannot write it works without. Whoever can write here can write relay.yaml itself.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TypeVar

from agentproxy.protocol.structure import UNREADABLE, Reader, structured
from agentproxy.protocol.unstructure import Writer
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import write_atomically

__all__ = ["Seen", "recall", "remember", "seen"]

_MAX_FILE = 1_048_576  # bytes
_FORMAT = 4  # changes with the fields of the configuration

_READER = Reader({Path: lambda value: Path(structured(value, str))})
_WRITER = Writer({type(Path()): str})

T = TypeVar("T")


@frozen
class Seen:
    """A file at one moment; the same again means that nobody wrote it or put another in its place in between."""

    identity: str
    inode: int
    changed_ns: int


def seen(path: Path) -> Seen | None:
    """The file as it is now; None when it cannot be read."""
    try:
        status = path.stat()
        return Seen(_identity(path), status.st_ino, status.st_ctime_ns)
    except OSError:
        return None


def recall(path: Path, cls: type[T]) -> T | None:
    """The configuration that `remember` kept for the file as it is now; None when there is none."""
    try:
        with _cache(path).open("rb") as file:
            plain: object = json.loads(file.read(_MAX_FILE))
        if not isinstance(plain, dict) or plain.get("of") != _identity(path):
            return None
        return _READER.read(plain["config"], cls)
    except (OSError, *UNREADABLE):  # an older file of ours, or a damaged one, is no reason not to start
        return None


def remember(path: Path, config: object, before: Seen | None) -> None:
    """Keep what the file became; where that cannot be written, do nothing.

    Args:
        before: the file before it was read. If it is another one now, nobody knows which of them `config` was.
    """
    if before is None or before != seen(path):
        return
    try:
        plain = _WRITER.write(config)
        data = json.dumps({"of": before.identity, "config": plain}, indent=1)
        write_atomically(_cache(path), data.encode("ascii"), 0o644)
    except OSError:
        return


def _cache(path: Path) -> Path:
    return path.with_name(f".{path.name}.parsed")


def _identity(path: Path) -> str:
    # With the path, since relative ones in the file count from its directory.
    return hashlib.sha256(b"%d\0%s\0" % (_FORMAT, os.fsencode(path.absolute())) + path.read_bytes()).hexdigest()
