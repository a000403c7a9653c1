"""The requests that wait for an answer, whatever becomes of the connections that carry them.

A request stays in this table until its answer, its deadline or its caller's end. A new connection gets all of them
again with the same ids, so the oracle joins each to what it already does for it.
"""

import secrets
from collections import deque
from collections.abc import Callable

import trio

from agentproxy.protocol.errors import BlindOracleError, RemoteProtocolError
from agentproxy.protocol.messages import (
    Certificate,
    Failed,
    FetchCertificate,
    Refused,
    Seal,
    Sealed,
    SelectedKey,
    SelectKey,
    Sign,
    Signed,
)
from relay.link import Link, RejectedError

__all__ = ["Answer", "DeadlineError", "PendingRequests", "Question", "UnreachableError", "new_request_id"]

Question = Sign | Seal | FetchCertificate | SelectKey
Answer = Signed | Sealed | SelectedKey | Refused | Failed | tuple[Certificate, ...]


class UnreachableError(BlindOracleError):
    """No oracle could be asked before the deadline, or each that was asked went away."""


class DeadlineError(BlindOracleError):
    """The oracle had the request and did not answer within the deadline."""


def new_request_id() -> str:
    """16 random bytes as hex: unique without asking anybody, also after the relay's restart."""
    return secrets.token_hex(16)


# An oracle answers everything, at the latest when the time that we gave it has passed. What is overdue by more than
# this it forgot: without this limit each such request would take a place in the window for ever.
FORGOTTEN_SECONDS = 10.0


class _Request:
    __slots__ = ("answer", "done", "expires", "id", "make", "parts", "rejection", "times_sent")

    def __init__(self, request_id: str, expires: float, make: Callable[[], Question]) -> None:
        self.id = request_id
        self.expires = expires
        self.make = make  # called at each sending: the remaining time differs
        self.done = trio.Event()
        self.answer: Answer | None = None
        self.rejection: RejectedError | None = None
        self.parts: list[Certificate] = []
        self.times_sent = 0


class PendingRequests:
    """Sends what may be sent, and wakes whom an answer is for."""

    def __init__(self) -> None:
        self._open: dict[str, _Request] = {}
        self._unsent: deque[_Request] = deque()
        # Until when each may take. Also those of callers that are gone: the oracle still works on them.
        self._in_flight: dict[str, float] = {}
        self._link: Link | None = None
        self._problem = "no connection yet"
        # A link that has been replaced, and the requests whose answers still come over it.
        self._leaving: Link | None = None
        self._staying: set[str] = set()
        self._window = 0
        self._draining = False
        self._wanted = trio.Event()
        self._settled = trio.Event()

    def __len__(self) -> int:
        return len(self._open)

    async def wanted(self) -> None:
        """Return as soon as somebody waits for an answer."""
        while not self._open:
            self._wanted = trio.Event()
            await self._wanted.wait()

    async def idle(self) -> None:
        """Return as soon as nobody waits for an answer."""
        while self._open:
            self._settled = trio.Event()
            await self._settled.wait()

    async def ask(self, request_id: str, expires: float, make: Callable[[], Question]) -> Answer:
        """The answer to `make()`, if it comes until `expires` (on trio's clock).

        Raises:
            RejectedError: no oracle takes this relay.
            DeadlineError: an oracle had the request all the time and did not answer.
            UnreachableError: there was none, or connections died under the request.
        """
        request = _Request(request_id, expires, make)
        self._open[request_id] = request
        self._unsent.append(request)
        self._wanted.set()
        self._pump()
        try:
            await self._done(request)
        finally:
            del self._open[request_id]
            self._settled.set()
        if request.rejection is not None:
            raise request.rejection
        if request.answer is None:
            raise self._too_late(request)
        return request.answer

    async def _done(self, request: _Request) -> None:
        with trio.move_on_at(request.expires):
            while not request.done.is_set():
                with trio.move_on_after(FORGOTTEN_SECONDS):
                    await request.done.wait()
                self._pump()  # places that forgotten requests held may be free by now

    def _too_late(self, request: _Request) -> DeadlineError | UnreachableError:
        if request.times_sent == 1 and request.id in self._in_flight:
            return DeadlineError("the oracle did not answer in time")
        return UnreachableError(f"no oracle in reach: {self._problem or 'too many requests before this one'}")

    def attach(self, link: Link, window: int) -> None:
        """Send over `link` from now on, at most `window` requests in flight; begin with all that are open.

        What is in flight over another link that still lives stays there; that one ends when it is answered.
        """
        if self._link is not None and self._link is not link:
            self._leaving, self._staying = self._link, set(self._in_flight)
        self._link = link
        self._problem = ""
        self._window = max(1, window)
        self._draining = False
        self._unsent = deque(request for request in self._open.values() if request.id not in self._staying)
        self._end_if_left()
        self._pump()

    def lost(self, problem: str) -> None:
        """There is no connection, because of `problem`."""
        self._problem = problem

    def detach(self, link: Link) -> None:
        """`link` is gone; what was in flight over it goes over the next one."""
        if link is self._leaving:
            lost, self._staying, self._leaving = self._staying, set(), None
            for request_id in lost & self._open.keys():
                self._open[request_id].parts.clear()
                self._unsent.append(self._open[request_id])
            for request_id in lost:
                self._in_flight.pop(request_id, None)
            self._pump()
        elif link is self._link:
            self._link = None
            self._in_flight = {key: at for key, at in self._in_flight.items() if key in self._staying}
            for request in self._open.values():
                if request.id not in self._staying:
                    request.parts.clear()

    def drain(self) -> None:
        """Send nothing more over this link, and end it once everything in flight is answered."""
        self._draining = True
        self._end_if_drained()

    def reject(self, rejection: RejectedError) -> None:
        """End every open request: waiting would not help."""
        for request in self._open.values():
            if request.answer is None:
                request.rejection = rejection
                request.done.set()

    def settle(self, message: Signed | Sealed | SelectedKey | Refused | Failed | Certificate) -> None:
        """Give an answer to whom it is for; answers to those who are gone are dropped.

        Raises:
            RemoteProtocolError: parts of a certificate out of order.
        """
        request = self._open.get(message.id)
        if isinstance(message, Certificate):
            if request is not None:
                _collect(request, message)
            if message.part < message.parts:
                return
        self._in_flight.pop(message.id, None)
        if request is not None and not request.done.is_set():
            request.answer = tuple(request.parts) if isinstance(message, Certificate) else message
            request.done.set()
        self._staying.discard(message.id)
        self._end_if_left()
        self._end_if_drained()
        self._pump()

    def _end_if_left(self) -> None:
        if self._leaving is not None and not self._staying:
            leaving, self._leaving = self._leaving, None
            leaving.end("a connection with renewed credentials has taken its place")

    def _end_if_drained(self) -> None:
        if self._draining and not self._in_flight and self._link is not None:
            self._link.end("the oracle goes away for maintenance")

    def _pump(self) -> None:
        link = self._link
        while link is not None and not self._draining and self._unsent and self._has_room():
            request = self._unsent.popleft()
            if request.id in self._open and not request.done.is_set():
                self._in_flight[request.id] = request.expires
                request.times_sent += 1
                link.send(request.make())

    def _has_room(self) -> bool:
        if len(self._in_flight) >= self._window:
            limit = trio.current_time() - FORGOTTEN_SECONDS
            self._in_flight = {key: expires for key, expires in self._in_flight.items() if expires > limit}
        return len(self._in_flight) < self._window


def _collect(request: _Request, part: Certificate) -> None:
    if part.part != len(request.parts) + 1:
        raise RemoteProtocolError("certificate: parts come in order")
    request.parts.append(part)
