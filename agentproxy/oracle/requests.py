"""Requests by their ids, so that a retry never signs twice.

An id belongs to its runner and is bound to everything that decides what is signed. A repeat joins the running job,
also when the connection that started it has died; a finished job's answer is kept for a while. It is kept as bytes:
Python's garbage collections look again and again at every object that could hold another, and with tens of thousands
of answers that stopped an oracle for 40 to 90 ms.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from agentproxy.oracle.caller import Caller
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.errors import BlindOracleError, RefusedError
from agentproxy.protocol.messages import FROM_ORACLE
from agentproxy.protocol.oracle_messages import Signed
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.seal_messages import Seal, Sealed

__all__ = ["Answer", "Job", "Made", "Requests", "Wanted"]

KEPT_SECONDS = 600.0  # ten minutes: longer than any relay goes on trying
MOST_KEPT = 32_768  # answers, of all runners
# So many go at once when there are more, the oldest of whoever has most: to look who that is for each would cost more
# than all the rest.
_DROPPED = 128


Wanted = Sign | Seal
Made = Signed | Sealed
Answer = Callable[[Made | BlindOracleError], None]
# What an id stands for; of the claims only those that can decide something. Nothing but bytes, numbers and texts.
_Bound = tuple[object, ...]
_Kept = tuple[_Bound, bytes]  # and the answer's message


@dataclass(slots=True, eq=False)
class Job:
    """One signature on its way, whoever waits for it."""

    caller: Caller  # who asked first
    request: Wanted
    bound: _Bound
    deadline: float  # seconds: when the last of those who wait gives up
    rule: str = ""
    started: float = 0.0
    turn: float = 0.0  # seconds: when it went to the signer
    weight: int = 0
    outcome: Made | BlindOracleError | None = None
    waiting: list[Answer] = field(default_factory=list)

    def tell(self, answer: Answer) -> None:
        """Call `answer` with the outcome, now or at the end."""
        if self.outcome is None:
            self.waiting.append(answer)
        else:
            answer(self.outcome)


class Requests:
    """The jobs that run and the answers that are kept.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._jobs: dict[tuple[str, str], Job | _Kept] = {}
        self._finished: dict[str, deque[tuple[float, str]]] = {}  # of each runner: when, and the id
        self._kept = 0  # all of these

    def open(self, caller: Caller, request: Wanted) -> tuple[Job, bool]:
        """The job of this request, and whether it is new.

        Raises:
            RefusedError: the id stands for something else.
        """
        now = self._clock()
        self._make_room(caller.runner, now)
        deadline = now + request.remaining_ms / 1000
        bound = _bound(request)
        name = (caller.runner, request.id)
        job = self._jobs.get(name)
        if job is None:
            job = self._jobs[name] = Job(caller, request, bound, deadline)
            return job, True
        if not isinstance(job, Job):
            job = Job(caller, request, job[0], deadline, outcome=_read(job[1]))
        if job.bound != bound:
            raise RefusedError(RefusalCode.ID_REUSED, f"id {request.id} already stands for another request")
        job.deadline = max(job.deadline, deadline)
        return job, False

    def finish(self, job: Job, outcome: Made | BlindOracleError) -> None:
        """End a job. Only a signature is kept: after a failure the same id may try again."""
        job.outcome = outcome
        name = (job.caller.runner, job.request.id)
        if isinstance(outcome, Made):
            self._finished.setdefault(name[0], deque()).append((self._clock(), name[1]))
            self._kept += 1
        else:
            del self._jobs[name]
        waiting, job.waiting = job.waiting, []
        for answer in waiting:
            answer(outcome)

    def put_away(self, job: Job) -> None:
        """Keep of a job with a signature what a repeat needs; called when there is time for it."""
        name = (job.caller.runner, job.request.id)
        if self._jobs.get(name) is job and isinstance(job.outcome, Made):
            self._jobs[name] = (job.bound, FROM_ORACLE.encode(job.outcome))

    def forget_old(self) -> None:
        """Let go of answers whose time is over; called about once a second."""
        now = self._clock()
        for runner in list(self._finished):
            self._forget_old(runner, now)

    def _forget_old(self, runner: str, now: float) -> None:
        while (finished := self._finished.get(runner)) and finished[0][0] <= now - KEPT_SECONDS:
            self._forget(runner, finished)

    def _make_room(self, runner: str, now: float) -> None:
        self._forget_old(runner, now)
        if self._kept > MOST_KEPT:
            runner, finished = max(self._finished.items(), key=lambda item: len(item[1]))
            for _ in range(min(_DROPPED, len(finished))):
                self._forget(runner, finished)

    def _forget(self, runner: str, finished: deque[tuple[float, str]]) -> None:
        _, request_id = finished.popleft()
        self._kept -= 1
        if not finished:
            del self._finished[runner]
        del self._jobs[runner, request_id]


def _read(message: bytes) -> Made:
    made = FROM_ORACLE.decode(message)
    if not isinstance(made, Made):
        raise TypeError(f"{made.tag} was kept")  # cannot be: nothing else is put away
    return made


def _bound(request: Wanted) -> _Bound:
    claimed = request.claims.distributions if request.claims else ()
    wanted = (request.tag, request.keygrip.value, request.distribution, claimed)
    if isinstance(request, Sign):
        return *wanted, int(request.digest.algorithm), request.digest.value
    state = request.state
    return *wanted, int(state.algorithm), state.chaining_value, state.length, state.rest
