"""The last requests and how they ended, for `status --last`; each is a line in the log too.

gpg shows only the words of an error code, so this is where a person finds the reason.
"""

import enum
import itertools
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime

from agentproxy.protocol.fields import Claims
from agentproxy.protocol.timings import Timings
from agentproxy.protocol.values import frozen
from agentproxy.runtime.afterwards import Afterwards

__all__ = ["MAX_TOLD", "Outcome", "RequestEntry", "RequestLog"]

logger = logging.getLogger(__name__)

MAX_TOLD = 8 * 1024 * 1024  # bytes of JSON; whoever asks the control socket takes twice as much
_FRAME = 2048  # of an entry's JSON: names, numbers, quotes
_PLAIN = re.compile(r"[^\s,'\"\\]+")


class Outcome(enum.StrEnum):
    """How a request ended, as gpg saw it."""

    SIGNED = "signed"
    REFUSED = "refused"  # the policy, or the relay itself, said no
    FAILED = "failed"
    ABANDONED = "abandoned"  # gpg went away before the answer


@frozen
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

    def last(self, count: int, most: int = MAX_TOLD) -> Sequence[RequestEntry]:
        """The newest entries, newest first.

        Args:
            count: at most so many.
            most: bytes of JSON that they take together, at most.
        """
        told: list[RequestEntry] = []
        for entry in itertools.islice(reversed(self._entries), min(max(0, count), len(self._entries))):
            most -= _size(entry)
            if most < 0:
                break
            told.append(entry)
        return told


def _size(entry: RequestEntry) -> int:
    """Bytes of JSON that an entry takes at most: whoever calls gpg chooses most of it."""
    texts = [entry.reason, *entry.nodes]
    if entry.claims is not None:
        claims = entry.claims
        texts += [claims.user or "", claims.file or "", claims.package or ""]
        texts += [*claims.commands, *claims.distributions, *claims.job, *claims.job.values()]
    # A character takes twelve at most: two escapes, for each half of a surrogate pair.
    return _FRAME + sum(len(text) if text.isascii() and text.isprintable() else 12 * len(text) for text in texts)


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
    claimed = claims.package or claims.file if claims else None
    return _field(claimed) if claimed else "-"


def _job(claims: Claims | None) -> str:
    job = claims.job if claims else {}
    return ",".join(f"{_field(name)}:{_field(value)}" for name, value in job.items()) or "-"


def _field(claimed: str) -> str:
    """A claim as a field's value: with quotes where a blank or a comma in it would begin another field of its own."""
    return claimed if _PLAIN.fullmatch(claimed) else repr(claimed)
