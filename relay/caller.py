"""What the relay can see of its caller: the claims that make the audit log readable.

They are claimed, never proven: a process can choose its command line, and its pid may be another's by now. Looking at
somebody else's memory and files may block for ever, so threads do it, from gpg's first question about a key of ours; a
signature waits for them for a few milliseconds at most, and then goes out with what they have found.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile

import trio

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import MAX_CLAIM, MAX_CLAIMS, MAX_COMMANDS, Claims, size_of_texts
from agentproxy.runtime.unixsocket import Peer
from relay import procfs
from relay.cleaning import Room, clean
from relay.jobclaims import (
    WANTED_VARIABLES,
    EnvironmentClaims,
    claims_of_disttag,
    claims_of_environment,
    claims_of_hint,
)
from relay.procfs import Process
from relay.users import user_name
from relay.workfile import WorkFile, find_work_file

__all__ = ["Observer", "Sighting", "claims_of"]

logger = logging.getLogger(__name__)

# Python runs one thread at a time; a second one goes on while the first waits for the kernel.
_WORKERS = 2
# Threads that somebody's memory or files hold on to: so many of one user, then nothing more is looked up for them.
_STUCK_SECONDS = 0.05  # hundreds of times what it takes
_MOST_STUCK_OF_ONE = 8
_MOST_STUCK = 64
# rpmsign runs one gpg after another, and their parents stay the same: what was read is used again for so long. A pid
# comes back sooner only on a host that starts 30000 processes a second, and then a claim is wrong, which it may be.
_FRESH_SECONDS = 1.0
_MOST_KEPT = 256
_MOST_WORDS = 50_000  # on the command lines of what is kept: a hundred bytes each, and whoever asks chooses them
_WHOLE_COMMANDS = 4  # gpg, rpmsign, the script that runs it, the job's shell
# Characters of those above: a CI's runner is started with whole scripts and environments, which say little of the
# signature, and which the message and the record of each signature would carry.
_MOST_OF_OTHERS = 256


class Observer:
    """Looks at callers.

    Args:
        patience_seconds: how long a signature waits for what is being looked up; 0: nothing is.
        look: fills in a sighting, in a thread; it may block, for ever if need be.
    """

    def __init__(self, patience_seconds: float, look: "Callable[[Sighting], None] | None" = None) -> None:
        self._patience_seconds = patience_seconds
        self._look = look or look_at
        self._recent: dict[int, Sighting] = {}
        self._lock = threading.Lock()  # for what the threads share with the event loop: the next three
        self._queue: deque[Sighting] = deque()
        self._working = 0
        self._begun: dict[Sighting, float] = {}  # what threads look at now, and since when

    def look(self, peer: Peer) -> None:
        """Begin to look at this caller, if that has not just been done; called when it will soon want a signature."""
        self._sighting(peer)

    async def claims(self, peer: Peer, hint: str) -> Claims | None:
        """What is known of it by now, or within the patience; None when nothing fits into claims.

        Args:
            hint: its PINENTRY_USER_DATA.
        """
        sighting = self._sighting(peer)
        if not sighting.is_done:
            await self._wait(sighting)
        if sighting.whole is not None and not hint:
            return sighting.whole
        try:
            return sighting.claims(claims_of_hint(hint))
        except RemoteProtocolError as error:
            logger.warning("claims left out, pid=%d reason=%s", peer.pid, error)
            return None

    def _sighting(self, peer: Peer) -> "Sighting":
        known, now = self._recent.get(peer.pid), time.monotonic()
        if known is not None and known.peer == peer and now - known.since < _FRESH_SECONDS:
            return known
        if len(self._recent) >= _MOST_KEPT:
            self._recent.clear()
        sighting = self._recent[peer.pid] = Sighting(peer, now)
        if self._patience_seconds > 0 and peer.pid > 1:
            self._enqueue(sighting)
        else:
            sighting.is_done = True
        return sighting

    def _enqueue(self, sighting: "Sighting") -> None:
        with self._lock:
            if self._is_hopeless(sighting.peer.uid):
                sighting.is_done = True
                return
            self._queue.append(sighting)
        self._start_worker()

    def _stuck(self) -> list["Sighting"]:
        """What threads hang at; under the lock."""
        now = time.monotonic()
        return [sighting for sighting, since in self._begun.items() if now - since > _STUCK_SECONDS]

    def _is_hopeless(self, uid: int) -> bool:
        """Whether too many threads hang already, for this user or for all; under the lock."""
        if len(self._begun) < _MOST_STUCK_OF_ONE:
            return False
        stuck = self._stuck()
        return len(stuck) >= _MOST_STUCK or sum(one.peer.uid == uid for one in stuck) >= _MOST_STUCK_OF_ONE

    def _start_worker(self) -> None:
        with self._lock:
            if not self._queue or (self._working >= _WORKERS and self._working - len(self._stuck()) >= _WORKERS):
                return
            self._working += 1
        trio.lowlevel.start_thread_soon(self._work, lambda _: None, "claims")

    async def _wait(self, sighting: "Sighting") -> None:
        sighting.notify_by(trio.lowlevel.current_trio_token())
        with trio.move_on_after(self._patience_seconds):
            while not sighting.is_done:
                with trio.move_on_after(_STUCK_SECONDS):
                    await sighting.known.wait()
                self._start_worker()  # those who worked may hang by now
        with self._lock:
            if sighting not in self._begun:
                sighting.is_done = True  # nobody waits for it any more: no thread need begin

    def _work(self) -> None:
        """In a thread: look at one caller after another."""
        while (sighting := self._next()) is not None:
            try:
                self._look(sighting)
                sighting.complete()
            except Exception:  # as around a whole connection: no bug of ours costs a signature
                logger.exception("a caller could not be looked at, pid=%d", sighting.peer.pid)
            finally:
                with self._lock:
                    sighting.is_done = True
                    del self._begun[sighting]
                sighting.notify()

    def _next(self) -> "Sighting | None":
        with self._lock:
            while self._queue:
                sighting = self._queue.popleft()
                if not sighting.is_done and not self._is_hopeless(sighting.peer.uid):
                    self._begun[sighting] = time.monotonic()
                    return sighting
                sighting.is_done = True
            self._working -= 1
            return None


class Sighting:
    """One caller at one moment; a thread fills in what it sees, each thing whole.

    Attributes:
        user, commands, environment, file: seen so far.
        whole: all of it as claims; None: it is not all seen, or does not fit into them.
    """

    def __init__(self, peer: Peer, since: float) -> None:
        self.peer = peer
        self.since = since
        self.known = trio.Event()
        self.is_done = False
        self._token: trio.lowlevel.TrioToken | None = None
        self.user: str | None = None
        self.commands: tuple[str, ...] = ()
        self.environment = EnvironmentClaims()
        self.file: WorkFile | None = None
        self.whole: Claims | None = None

    def complete(self) -> None:
        """In the thread: all is seen. Putting it together here spares the signature the time."""
        with contextlib.suppress(RemoteProtocolError):  # who asks for claims tells
            self.whole = self.claims(EnvironmentClaims())

    def notify_by(self, token: trio.lowlevel.TrioToken) -> None:
        """Somebody waits for `known`."""
        self._token = token
        if self.is_done:  # meanwhile
            self.known.set()

    def notify(self) -> None:
        """In the thread: it is done."""
        token = self._token
        if token is None:
            return
        try:
            token.run_sync_soon(self.known.set)
        except trio.RunFinishedError:
            return  # the relay has ended

    def claims(self, hint: EnvironmentClaims) -> Claims:
        """What we saw ourselves, and from `hint` what we could not see."""
        seen, file = self.environment, self.file
        package = file.package if file else None
        distributions = (claims_of_disttag(package.disttag) if package else ()) + seen.distributions
        whole = partial(
            Claims,
            uid=self.peer.uid,
            user=self.user,
            pid=self.peer.pid or None,
            distributions=tuple(dict.fromkeys((*distributions, *hint.distributions))),
        )
        path = clean(file.path, MAX_CLAIM) if file else hint.file
        nevra = clean(package.nevra, MAX_CLAIM) if package else hint.package
        job = {**hint.job, **seen.job}
        try:
            return whole(commands=self.commands, file=path, package=nevra, job=job)
        except RemoteProtocolError:
            room = Room(MAX_CLAIMS - size_of_texts((self.user or "",)))
            return whole(
                file=path if path is not None and room.has(path) else None,
                package=nevra if nevra is not None and room.has(nevra) else None,
                job={name: value for name, value in job.items() if room.has(name, value)},
                commands=tuple(takewhile(room.has, self.commands)),
            )


def look_at(sighting: Sighting) -> None:
    """Fill in what can be seen; what is most useful and least likely to block comes first."""
    peer = sighting.peer
    lineage = list(_lineage(peer.pid))
    sighting.commands = tuple(_command_lines(lineage))
    sighting.user = user_name(peer.uid)
    sighting.environment = claims_of_environment(procfs.environment(peer.pid, WANTED_VARIABLES))
    sighting.file = find_work_file(lineage)


def claims_of(peer: Peer) -> Claims | None:
    """As `Observer.claims`, at once and however long it takes: for a command that tells of itself."""
    sighting = Sighting(peer, time.monotonic())
    look_at(sighting)
    try:
        return sighting.claims(EnvironmentClaims())
    except RemoteProtocolError:
        return None


def _lineage(pid: int) -> Iterator[Process]:
    for _ in range(MAX_COMMANDS):
        if pid <= 1:
            return
        process = _processes.get(pid)
        if process is None:
            return  # it ended, or belongs to somebody whom we may not look at
        yield process
        pid = process.parent


def _command_lines(lineage: list[Process]) -> Iterator[str]:
    for number, process in enumerate(lineage):
        if not process.claim:
            return
        yield process.claim if number < _WHOLE_COMMANDS else process.claim[:_MOST_OF_OTHERS]


class _Processes:
    """Processes that were read a moment ago; shared by the threads, each step of which is one of dict's own."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[float, Process | None]] = {}

    def get(self, pid: int) -> Process | None:
        known, now = self._kept.get(pid), time.monotonic()
        if known is not None and now - known[0] < _FRESH_SECONDS:
            return known[1]
        process = procfs.process(pid)
        words = _words_of(process)
        kept = sum(_words_of(one) for _, one in list(self._kept.values()))
        if len(self._kept) >= _MOST_KEPT or kept + words > _MOST_WORDS:
            self._kept.clear()
        if words <= _MOST_WORDS:
            self._kept[pid] = (now, process)
        return process


def _words_of(process: Process | None) -> int:
    return 0 if process is None else len(process.words)


_processes = _Processes()
