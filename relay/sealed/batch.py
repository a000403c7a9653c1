"""Many files at once: each is read, sealed, written and put in its place, and what became of it is told."""

from collections.abc import Callable, Iterable
from pathlib import Path

from agentproxy.protocol.errors import LocalProtocolError
from agentproxy.runtime.openfiles import room_for
from relay.sealed import libcrypto
from relay.sealed.claims import claims_about_us
from relay.sealed.fate import Result, Way
from relay.sealed.pieces import Hash, Piece, beside, read_document, read_metadata, read_package
from relay.sealed.run import Asking, Job, Run

__all__ = ["Batch"]

_FILES_OPEN = 2  # of one job: what is signed, and what takes its place


def _never() -> bool:
    return False


class Batch:
    """Signs files; each run returns whether it was not interrupted.

    Args:
        asker: asks for the signatures, of one run at a time.
        way: for all of them.
        tell: gets each result, as soon as there is one, in one of several threads; until it returns, less is begun.
        is_interrupted: asked twenty times a second: whether to bring to an end what was begun, and begin nothing more.
    """

    def __init__(
        self, asker: Asking, way: Way, tell: Callable[[Result], None], is_interrupted: Callable[[], bool] = _never
    ) -> None:
        self._asker = asker
        self._way = way
        self._tell = tell
        self._is_interrupted = is_interrupted
        libcrypto.find(way.algorithm)  # here: many threads that look for it at once would all compare
        self._us = claims_about_us()

    def sign_rpms(self, files: Iterable[Path]) -> bool:
        """Sign the headers of packages, in place."""
        return self._sign(files, lambda file, _: read_package(file, self._way))

    def sign_detached(self, files: Iterable[Path], output: Path | None = None) -> bool:
        """Write a signature beside each file, or into `output`."""
        way = self._way
        return self._sign(files, lambda file, hashed: read_document(file, output or beside(file, way), way, hashed))

    def sign_repositories(self, directories: Iterable[Path]) -> bool:
        """Write a signature beside each directory's repodata/repomd.xml."""
        files = (directory / "repodata" / "repomd.xml" for directory in directories)
        return self._sign(files, lambda file, hashed: read_metadata(file, self._way, hashed))

    def _sign(self, files: Iterable[Path], read: Callable[[Path, Hash], Piece]) -> bool:
        if not self._asker.at_work.acquire(blocking=False):  # one of the two would take the other one's answers
            raise LocalProtocolError("this asker is at work; each run beside another one needs an asker of its own")
        try:
            jobs = max(1, room_for(_FILES_OPEN * self._way.jobs) // _FILES_OPEN)
            job = Job(self._way, read, self._tell, self._us, jobs)
            return Run(self._asker, job, iter(files)).finish(self._is_interrupted)
        finally:
            self._asker.at_work.release()
