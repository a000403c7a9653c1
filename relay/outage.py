"""How long an outage has lasted that a restart of the relay interrupted, so that `auto` need not count anew.

Only within one boot: what the host did while it was down nobody can say.
"""

import json
import logging
from pathlib import Path

from agentproxy.protocol.structure import UNREADABLE, structured
from agentproxy.protocol.unstructure import unstructured
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import write_atomically
from relay.fallbackswitch import Clock

__all__ = ["RESTART_SECONDS", "Outage"]

logger = logging.getLogger(__name__)

# After a restart an oracle must have had the time to answer: one connection attempt, before the old count is believed.
RESTART_SECONDS = 10.0
_MAX_FILE = 4096  # bytes


@frozen
class _Began:
    boot: str
    since_boot_ms: int


class Outage:
    """The beginning of the present outage, kept on disk while there is one.

    Args:
        path: where; its directory exists when there is something to keep.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._boot = clock.boot()
        self._began: _Began | None = None

    def load(self) -> None:
        """Take the outage that the last run saw, if it was in this boot."""
        try:
            with self._path.open("rb") as file:
                began = structured(json.loads(file.read(_MAX_FILE)), _Began)
        except FileNotFoundError:
            return
        except (OSError, *UNREADABLE) as error:
            logger.warning("the outage's beginning is not read, it counts from now, error=%s", error)
            return
        if began.boot == self._boot:
            self._began = began

    def seconds(self, own: float) -> float:
        """For how long no oracle has answered, by what this run saw (`own`) and the one before."""
        if self._began is None or own < RESTART_SECONDS:
            return own
        return max(own, self._clock.since_boot() - self._began.since_boot_ms / 1000)

    def is_news(self, own: float | None) -> bool:
        """Whether `note` would have something to keep."""
        return self._began is not None if own is None else self._began is None and own >= RESTART_SECONDS

    def note(self, own: float | None) -> None:
        """Keep how it is now, for the next run; None: an oracle is there. It blocks.

        Raises:
            OSError: it cannot be kept; the next run counts anew.
        """
        if own is None:
            self._path.unlink(missing_ok=True)
            self._began = None
        else:
            began = _Began(self._boot, int((self._clock.since_boot() - own) * 1000))
            plain = unstructured(began)
            write_atomically(self._path, json.dumps(plain).encode("ascii"), 0o644)
            self._began = began
