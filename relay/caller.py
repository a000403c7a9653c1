"""What the relay can see of its caller: the claims that make the audit log readable.

They are claimed, never proven: a process can choose its command line, and its pid may be another's by now. Looking at
somebody else's memory and files may block for ever, so threads do it, from gpg's first question about a key of ours; a
signature waits for them for a few milliseconds at most, and then goes out with what they have found.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import trio

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Claims
from agentproxy.runtime.peer import Peer
from relay.jobclaims import claims_of_hint
from relay.sighting import FRESH_SECONDS, Sighting, look_at

__all__ = ["Observer"]

logger = logging.getLogger(__name__)

# Python runs one thread at a time; a second one goes on while the first waits for the kernel.
_WORKERS = 2
# Threads that somebody's memory or files hold on to: so many of one user, then nothing more is looked up for them.
_STUCK_SECONDS = 0.05  # hundreds of times what it takes
_MOST_STUCK_OF_ONE = 8
_MOST_STUCK = 64
_MOST_KEPT = 256  # callers of the last moment


class Observer:
    """Looks at callers.

    Args:
        patience_seconds: how long a signature waits for what is being looked up; 0: nothing is.
        look: fills in a sighting, in a thread; it may block, for ever if need be.
    """

    def __init__(self, patience_seconds: float, look: Callable[[Sighting], None] | None = None) -> None:
        self._patience_seconds = patience_seconds
        self._look = look or look_at
        self._recent: dict[int, _Inquiry] = {}
        self._lock = threading.Lock()  # for what the threads share with the event loop: the next three
        self._queue: deque[_Inquiry] = deque()
        self._working = 0
        self._begun: dict[_Inquiry, float] = {}  # what threads look at now, and since when

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

    def _sighting(self, peer: Peer) -> "_Inquiry":
        known, now = self._recent.get(peer.pid), time.monotonic()
        if known is not None and known.peer == peer and now - known.since < FRESH_SECONDS:
            return known
        if len(self._recent) >= _MOST_KEPT:
            self._recent.clear()
        sighting = self._recent[peer.pid] = _Inquiry(peer, now)
        if self._patience_seconds > 0 and peer.pid > 1:
            self._enqueue(sighting)
        else:
            sighting.is_done = True
        return sighting

    def _enqueue(self, sighting: "_Inquiry") -> None:
        with self._lock:
            if self._is_hopeless(sighting.peer.uid):
                sighting.is_done = True
                return
            self._queue.append(sighting)
        self._start_worker()

    def _stuck(self) -> list["_Inquiry"]:
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

    async def _wait(self, sighting: "_Inquiry") -> None:
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

    def _next(self) -> "_Inquiry | None":
        with self._lock:
            while self._queue:
                sighting = self._queue.popleft()
                if not sighting.is_done and not self._is_hopeless(sighting.peer.uid):
                    self._begun[sighting] = time.monotonic()
                    return sighting
                sighting.is_done = True
            self._working -= 1
            return None


class _Inquiry(Sighting):
    """A sighting that a thread fills in, and for which somebody may wait."""

    def __init__(self, peer: Peer, since: float) -> None:
        super().__init__(peer)
        self.since = since
        self.known = trio.Event()
        self.is_done = False
        self._token: trio.lowlevel.TrioToken | None = None

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
