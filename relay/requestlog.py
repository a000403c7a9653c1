"""The last requests and how they ended, for `status --last`; each is a line in the log too.

gpg shows only the words of an error code, so this is where a person finds the reason.
"""

import enum
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from agentproxy.protocol.fields import Claims
from agentproxy.protocol.timings import Timings
from agentproxy.runtime.afterwards import Afterwards

__all__ = ["Outcome", "RequestEntry", "RequestLog"]

logger = logging.getLogger(__name__)


class Outcome(enum.StrEnum):
    """How a request ended, as gpg saw it."""

    SIGNED = "signed"
    REFUSED = "refused"  # the policy, or the relay itself, said no
    FAILED = "failed"
    ABANDONED = "abandoned"  # gpg went away before the answer


@dataclass(frozen=True, slots=True)
class RequestEntry:
    """One request."""

    time: datetime  # of its end
    id: str
    outcome: Outcome
    code: str  # the oracle's or the relay's own; empty when signed
    reason: str
    gpg_says: str  # the words that gpg shows
    duration_ms: int
    key: str = ""
    keygrip: str = ""
    hash_algorithm: str = ""
    uid: int | None = None
    pid: int | None = None
    socket: str = ""  # the name of the one that gpg came by
    claims: Claims | None = None
    fallback: str = ""  # the mode when the host's own key was asked; empty: the oracle's was
    nodes: tuple[str, ...] = ()  # the oracles that had it, in order; several: it was tried again


class RequestLog:
    """Keeps the last entries.

    Args:
        length: how many.
    """

    def __init__(self, length: int) -> None:
        self._entries: deque[RequestEntry] = deque(maxlen=length)
        self.afterwards = Afterwards()  # somebody must run it
        self.counts: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.codes: dict[str, int] = {}  # of those that were not signed
        self.times = Timings()  # of signatures, as gpg waited for them

    def add(self, entry: RequestEntry) -> None:
        """Keep the entry and log it, behind what was put off."""
        self.write_late()
        self._keep(entry)

    def put_off(self, make: Callable[[], RequestEntry]) -> None:
        """Make, keep and log an entry a moment later, or before the next one that is not put off."""
        self.afterwards.put_off(lambda: self._keep(make()))

    def write_late(self) -> None:
        """Write what was put off; called before anybody is told of what is here."""
        self.afterwards.do()

    def _keep(self, entry: RequestEntry) -> None:
        self._entries.append(entry)
        self.counts[entry.outcome] += 1
        if entry.outcome is Outcome.SIGNED:
            self.times.observe(entry.duration_ms / 1000)
        else:
            self.codes[entry.code] = self.codes.get(entry.code, 0) + 1
        _log(entry)

    def last(self, count: int) -> Sequence[RequestEntry]:
        """The newest entries, newest first."""
        newest = list(self._entries)[-count:] if count > 0 else []
        return newest[::-1]


def _log(entry: RequestEntry) -> None:
    level = logging.INFO if entry.outcome in {Outcome.SIGNED, Outcome.ABANDONED} else logging.WARNING
    logger.log(
        level,
        "%s, request=%s key=%s keygrip=%s hash=%s code=%s reason=%r duration_ms=%d nodes=%s socket=%s uid=%s pid=%s "
        "package=%s job=%s fallback=%s",
        entry.outcome.value,
        entry.id,
        entry.key or "-",
        entry.keygrip or "-",
        entry.hash_algorithm or "-",
        entry.code or "-",
        entry.reason,
        entry.duration_ms,
        ",".join(entry.nodes) or "-",
        entry.socket or "-",
        entry.uid,
        entry.pid,
        _package(entry.claims),
        _job(entry.claims),
        entry.fallback or "no",
    )


def _package(claims: Claims | None) -> str:
    return (claims.package or claims.file if claims else None) or "-"


def _job(claims: Claims | None) -> str:
    return ",".join(f"{name}:{value}" for name, value in claims.job.items()) if claims and claims.job else "-"
