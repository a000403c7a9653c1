"""One run over many files: what is to be done next, and what became of each file."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from pathlib import Path
from typing import BinaryIO, Protocol

from agentproxy.protocol.errors import BlindOracleError
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.seal_messages import Sealed
from agentproxy.protocol.values import frozen
from relay.errors import DeadlineError, RejectedError, UnreachableError
from relay.sealed.asker import Answer
from relay.sealed.claims import claims_about
from relay.sealed.crew import Crew
from relay.sealed.errors import NotSealedError
from relay.sealed.fate import Outcome, Result, Way
from relay.sealed.loading import Loading
from relay.sealed.pieces import Hash, Piece
from relay.sealed.replacement import sync_directory
from relay.sealed.states import state_of_file
from relay.signrequests import SealRequest, new_request_id

__all__ = ["Asking", "Job", "Run"]

# Reading, hashing and fsync block: more threads than processors, since with a slow disk they mostly wait for that.
_THREADS = 8
# Files that one fsync of their directory waits for, and so long at most: a file waits longer for its signature.
GATHER = 16
GATHER_SECONDS = 0.02
_CHECKING = "relay.sealed.checking"  # which loads libraries


class Asking(Protocol):
    """Who asks for signatures; `relay.sealed.asker.Asker` does."""

    at_work: threading.Lock  # held for as long as a run lasts, which takes all answers

    def ask(self, key: ServedKey, request: SealRequest) -> None:
        """Ask for a signature by `key`; it does not wait for the answer."""
        ...

    def answers(self, until: float = inf) -> list[Answer]:
        """What has come, at least one unless `until`, on the monotonic clock, passes or somebody calls `wake`."""
        ...

    def wake(self) -> None:
        """Let whoever waits for answers go."""
        ...


@frozen
class Job:
    """What is to be done with all files of a run."""

    way: Way
    read: Callable[[Path, Hash], Piece]
    tell: Callable[[Result], None]
    claims: Claims | None
    jobs: int  # files at once


class Run:
    """The work of a crew: begin a file, take answers, put a signed one in its place, sync directories.

    Args:
        asker: asks for the signatures.
        job: for all files.
        files: to be signed.
    """

    def __init__(self, asker: Asking, job: Job, files: Iterator[Path]) -> None:
        self._asker = asker
        self._job = job
        self._crew = Crew(min(_THREADS, job.jobs), self)
        self._files = files
        self._next_file = next(files, None)
        self._again: deque[Path] = deque()  # that were at work under another name
        self._at_work: dict[tuple[int, int], list[Path]] = {}  # and who waits for the end of it
        self._let_go_at: dict[tuple[int, int], float] = {}  # when the end of work on it came, on the monotonic clock
        self._asked: dict[str, tuple[Path, Piece]] = {}
        self._answered: deque[tuple[Path, Piece, Sealed | Exception]] = deque()
        self._placed: list[tuple[Result, str]] = []  # signed, in a directory that may not be on the disk yet
        self._settle_at = 0.0  # on the monotonic clock
        self._under_way = 0  # files that were begun, and are neither placed nor given up
        self._busy = 0  # steps, but for listening
        self._is_listening = False
        self._checks: Loading | None = None  # what answers are checked with
        self._can_check = False
        self._hopeless = ""  # why no further file is tried

    def finish(self, is_interrupted: Callable[[], bool]) -> bool:
        """Do it all; False when it was interrupted."""
        try:
            return self._crew.run(is_interrupted)
        finally:
            for piece in [piece for _, piece in self._asked.values()] + [piece for _, piece, _ in self._answered]:
                piece.close()  # of a run that was given up

    def next_step(self) -> Callable[[], None] | None:
        """As `crew.Work`."""
        step = self._pressing_step() or self._step_with_a_file()
        if step is not None:
            self._busy += 1
            return partial(self._do, step)
        if self._asked and not self._is_listening:
            self._is_listening = True
            return self._listen
        return None

    def _pressing_step(self) -> Callable[[], None] | None:
        """A sync: of many together, or when nobody else comes in time."""
        if not self._placed:
            return None
        is_alone = not self._asked and not self._answered and not self._may_begin() and not self._busy
        if not is_alone and len(self._placed) < GATHER and time.monotonic() < self._settle_at:
            return None
        placed, self._placed = self._placed, []
        return partial(self._settle, placed)

    def _step_with_a_file(self) -> Callable[[], None] | None:
        if self._answered and self._can_check:
            return partial(self._put, *self._answered.popleft())
        file = self._taken_file()
        return None if file is None else partial(self._begin, file)

    def _taken_file(self) -> Path | None:
        if not self._may_begin():
            return None
        self._under_way += 1
        if self._again:
            return self._again.popleft()
        file, self._next_file = self._next_file, next(self._files, None)
        return file

    def _may_begin(self) -> bool:
        return self._under_way < self._job.jobs and (bool(self._again) or self._next_file is not None)

    def is_waiting(self) -> bool:
        """As `crew.Work`."""
        has_answers = bool(self._answered) and self._can_check
        is_due = bool(self._placed) and time.monotonic() >= self._settle_at
        return has_answers or is_due or self._may_begin() or (bool(self._asked) and not self._is_listening)

    def is_over(self) -> bool:
        """As `crew.Work`."""
        is_idle = not self._busy and not self._asked and not self._answered and not self._placed
        return is_idle and self._next_file is None and not self._again

    def give_up(self) -> None:
        """As `crew.Work`."""
        self._asker.wake()

    def _do(self, step: Callable[[], None]) -> None:
        try:
            step()
        finally:
            with self._crew.changed:
                self._busy -= 1

    def _begin(self, file: Path) -> None:
        """Read a file, and ask for its signature."""
        if self._hopeless:
            self._end(Result(file, Outcome.NOT_TRIED, self._hopeless))
            return
        job, begun = self._job, time.monotonic()
        try:
            piece = job.read(file, self._hash)
        except (OSError, BlindOracleError) as error:
            self._end(self._failure(file, error))
            return
        if not self._is_alone_with(file, piece, begun):
            piece.close()
            return
        if piece.is_kept:
            self._let_go(piece)
            self._end(Result(file, Outcome.KEPT, "it has a signature already", package=piece.package))
            return
        key, way = job.way.key, job.way
        claims = claims_about(job.claims, file, piece.package)
        request = SealRequest(new_request_id(), key.facts.keygrip, piece.state, way.distribution, claims)
        with self._crew.changed:
            self._asked[request.id] = file, piece
        self._asker.ask(key, request)
        self._load_checks()

    def _hash(self, file: BinaryIO) -> HashState:
        """The state of a document; it may be so large that nobody who ends the run would wait for it."""
        return state_of_file(file, self._job.way.algorithm, lambda: self._crew.is_given_up)

    def _is_alone_with(self, file: Path, piece: Piece, begun: float) -> bool:
        """Whether nobody of this run changes it, or did so since, under another name: else it is begun anew."""
        if piece.identity is None:
            return True
        with self._crew.changed:
            waiting = self._at_work.get(piece.identity)
            if waiting is None and self._let_go_at.get(piece.identity, -inf) < begun:
                self._at_work[piece.identity] = []
                return True
            (self._again if waiting is None else waiting).append(file)
            self._under_way -= 1
            return False

    def _let_go(self, piece: Piece) -> None:
        piece.close()
        if piece.identity is not None:
            with self._crew.changed:
                self._let_go_at[piece.identity] = time.monotonic()
                self._again.extend(self._at_work.pop(piece.identity))

    def _load_checks(self) -> None:
        """Load what answers are checked with while the oracle works on the first of them."""
        with self._crew.changed:
            if self._checks is None:
                self._checks = Loading(_CHECKING, self._checks_loaded)

    def _checks_loaded(self) -> None:
        with self._crew.changed:  # all of it: a run that has ended takes its asker along
            if self._checks is None or self._crew.is_given_up:
                return
            if self._checks.error is not None:
                self._crew.fail(self._checks.error)
                return
            self._can_check = True
            self._crew.changed.notify_all()
            self._asker.wake()

    def _listen(self) -> None:
        """Wait for answers."""
        answers = self._asker.answers(self._settle_at if self._placed else inf)
        with self._crew.changed:
            self._is_listening = False
            for request_id, answer in answers:
                asked = self._asked.pop(request_id, None)
                if asked is not None:  # else an interrupted run wanted it, before this one
                    self._answered.append((*asked, answer))

    def _put(self, file: Path, piece: Piece, answer: Sealed | Exception) -> None:
        """Put a file that has its signature in the place of the one that has none."""
        from relay.sealed.checking import check  # noqa: PLC0415  loaded by now

        try:
            if isinstance(answer, Exception):
                raise answer
            check(self._job.way.key, piece.state, answer.seal)
            piece.put(answer)
        except (OSError, BlindOracleError) as error:
            result = self._failure(file, error)
        else:
            result = Result(file, Outcome.SIGNED, signature=piece.signature, package=piece.package, sealed=answer)
        finally:
            self._let_go(piece)
        if result.outcome is not Outcome.SIGNED:
            self._end(result)
            return
        with self._crew.changed:
            if not self._placed:
                self._settle_at = time.monotonic() + GATHER_SECONDS
                if self._is_listening:
                    self._asker.wake()  # whoever listens knows of no end to that
            self._placed.append((result, piece.directory))
            self._under_way -= 1

    def _settle(self, placed: list[tuple[Result, str]]) -> None:
        """Bring the names that files have got to the disk, and tell of these files."""
        problems: dict[str, OSError] = {}
        for directory in dict.fromkeys(directory for _, directory in placed):
            try:
                sync_directory(directory)
            except OSError as error:  # no other directory's problem
                problems[directory] = error
        for result, directory in placed:
            problem = problems.get(directory)
            if problem is None:
                self._job.tell(result)
            else:
                reason = f"it is signed, and may be as it was after a loss of power: {problem.strerror}"
                self._job.tell(Result(result.file, Outcome.FAILED, reason))

    def _end(self, result: Result) -> None:
        """Tell of a file that has no new signature; then another one may be begun."""
        if not self._crew.is_given_up:
            self._job.tell(result)
        with self._crew.changed:
            self._under_way -= 1

    def _failure(self, file: Path, error: OSError | BlindOracleError) -> Result:
        if isinstance(error, OSError):
            return Result(file, Outcome.FAILED, error.strerror or str(error))
        if isinstance(error, UnreachableError | DeadlineError | RejectedError):
            self._hopeless = str(error)
        return Result(file, Outcome.FAILED, str(error), error.code if isinstance(error, NotSealedError) else "")
