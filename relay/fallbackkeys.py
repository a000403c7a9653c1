"""The host's own keys, as `fallback setup` found them, and which of them may sign.

The relay contains no OpenPGP parser, so what a key's certificate says is read once, by gpg, and kept.
"""

import json
import logging
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path

from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.structure import UNREADABLE, structured
from agentproxy.protocol.values import frozen

__all__ = ["FallbackKeys", "KeyFile", "usable"]

logger = logging.getLogger(__name__)

_MAX_FILE = 1_048_576  # bytes


@frozen
class KeyFile:
    """The file's content."""

    keys: tuple[KeyFacts, ...] = ()


def usable(
    keys: Iterable[KeyFacts], oracles: Collection[Keygrip], accepted: Collection[Fingerprint], now: datetime
) -> tuple[list[KeyFacts], list[str]]:
    """Which keys may sign, and why each of the others may not.

    Args:
        oracles: the keygrips that an oracle serves.
        accepted: fingerprints of oracle's keys that relay.yaml names.
    """
    good, refused = [], []
    for key in keys:
        if key.keygrip in oracles and key.fingerprint not in accepted:
            refused.append(f"{key.fingerprint}: the oracle's key; fallback.accept_oracle_keys does not name it")
        elif key.can_certify:
            refused.append(f"{key.fingerprint}: it can certify")
        elif key.expires is not None and key.expires <= now:
            refused.append(f"{key.fingerprint}: expired on {key.expires:%Y-%m-%d}")
        else:
            good.append(key)
    return good, refused


class FallbackKeys:
    """The keys of one home, read again when the file changes.

    Args:
        path: the file; it may be missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = (0, 0)  # mtime and inode of what was read
        self._keys: tuple[KeyFacts, ...] = ()
        self._told = ""  # what the log was told last

    def all(self) -> tuple[KeyFacts, ...]:
        """Every key that was set up; none when the file is missing or damaged."""
        try:
            status = self._path.stat()
        except OSError:
            self._read, self._keys = (0, 0), ()
            return ()
        if self._read != (status.st_mtime_ns, status.st_ino):
            self._read = (status.st_mtime_ns, status.st_ino)
            self._keys = self._load()
        return self._keys

    def _load(self) -> tuple[KeyFacts, ...]:
        try:
            with self._path.open("rb") as file:
                keys = structured(json.loads(file.read(_MAX_FILE)), KeyFile).keys
        except UNREADABLE as error:
            self._tell(str(error))
            return ()
        except OSError as error:
            # That may last for a moment, as with too many open files, and the file stays as it is.
            self._read = (0, 0)
            self._tell(str(error))
            return ()
        self._told = ""
        return keys

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            logger.warning("the fallback's keys are not read, path=%s error=%s", self._path, problem)
        self._told = problem
