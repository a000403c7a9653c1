"""Many files at once: each is read, sealed, written and put in its place, and what became of it is told."""

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import trio

from agentproxy.protocol.errors import BlindOracleError, LocalProtocolError
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.seal_messages import Sealed
from agentproxy.runtime.serve import room_for
from relay.errors import DeadlineError, RejectedError, UnreachableError
from relay.sealed import libcrypto, rpms
from relay.sealed.claims import claims_about, claims_about_us
from relay.sealed.errors import NotSealedError, UnfitError
from relay.sealed.fate import Existing, Outcome, Result, Way
from relay.sealed.hands import Hands, hands
from relay.sealed.replacement import Original, created, opened, replacement, sync_directory
from relay.sealed.rpms import Rpm
from relay.sealed.sealer import Sealer
from relay.sealed.settling import Settling
from relay.sealed.states import state_of, state_of_file

__all__ = ["Batch"]

# Reading, hashing and fsync block: more of them than processors, since with a slow disk they mostly wait for that.
_THREADS = 8
_REPOMD = b"<repomd"
_LOOKED_AT = 4096  # bytes of a repomd.xml
_FILES_OPEN = 2  # of one job: what is signed, and what takes its place

T = TypeVar("T")


class Batch:
    """Signs files, in one run at a time.

    Args:
        sealer: connected.
        way: for all of them.
        tell: gets each result, as soon as there is one; no further file is begun until it has taken it.
    """

    def __init__(self, sealer: Sealer, way: Way, tell: Callable[[Result], Awaitable[None]]) -> None:
        self._sealer = sealer
        self._way = way
        self._tell = tell
        self._hands: Hands | None = None  # during a run
        self._settling = Settling(self._sync)
        libcrypto.find(way.algorithm)  # here: many threads that look for it at once would all compare
        self._us = claims_about_us()
        self._at_work: dict[tuple[int, int], trio.Event] = {}  # by device and inode; set when it is done with
        self._hopeless = ""  # why no further file is tried

    async def sign_rpms(self, files: Iterable[Path]) -> None:
        """Sign the headers of packages, in place."""
        await self._each(iter(files), self._sign_rpm)

    async def sign_detached(self, files: Iterable[Path], output: Path | None = None) -> None:
        """Write a signature beside each file, or into `output`."""

        async def sign(file: Path) -> Result:
            return await self._sign_detached(file, output or _beside(file, armor=self._way.armor), _read_document)

        await self._each(iter(files), sign)

    async def sign_repositories(self, directories: Iterable[Path]) -> None:
        """Write a signature beside each directory's repodata/repomd.xml."""

        async def sign(file: Path) -> Result:
            return await self._sign_detached(file, _beside(file, armor=self._way.armor), _read_metadata)

        await self._each((directory / "repodata" / "repomd.xml" for directory in directories), sign)

    async def _each(self, files: Iterator[Path], sign: "_Sign") -> None:
        async def work() -> None:
            for file in files:  # one iterator for all workers
                with self._settling.under_way():
                    result = await self._result(file, sign)
                await self._tell(result)

        if self._hands is not None:  # whose threads would end with the other run, and with them what this one waits for
            raise LocalProtocolError("this batch is at work; each run beside another one needs a Batch of its own")
        self._hopeless = ""  # what was so in an earlier run need not be so now
        jobs = max(1, room_for(_FILES_OPEN * self._way.jobs) // _FILES_OPEN)
        try:
            async with hands(min(_THREADS, jobs)) as self._hands, trio.open_nursery() as nursery:
                for _ in range(jobs):
                    nursery.start_soon(work)
        finally:
            self._hands = None

    async def _result(self, file: Path, sign: "_Sign") -> Result:
        if self._hopeless:
            await trio.lowlevel.checkpoint()
            return Result(file, Outcome.NOT_TRIED, self._hopeless)
        try:
            return await sign(file)
        except OSError as error:
            return Result(file, Outcome.FAILED, error.strerror or str(error))
        except NotSealedError as error:
            return Result(file, Outcome.FAILED, str(error), error.code)
        except (UnreachableError, DeadlineError, RejectedError) as error:
            self._hopeless = str(error)
            return Result(file, Outcome.FAILED, str(error))
        except BlindOracleError as error:
            return Result(file, Outcome.FAILED, str(error))

    async def _sign_rpm(self, file: Path) -> Result:
        way = self._way
        with contextlib.ExitStack() as stack:
            original, rpm, state = await self._read_alone(stack, file)
            if rpm.is_signed and way.existing is not Existing.REPLACE:
                if way.existing is Existing.REFUSE:
                    raise UnfitError("it has a signature already")
                return Result(file, Outcome.KEPT, "it has a signature already", package=rpm.nevra)
            sealed = await self._seal(state, file, rpm.nevra)
            await self._in_thread(lambda: _write_rpm(original, rpm, sealed))
            await self._settled(original.directory)
        return Result(file, Outcome.SIGNED, signature=file, package=rpm.nevra, sealed=sealed)

    async def _read_alone(self, stack: contextlib.ExitStack, file: Path) -> tuple[Original, Rpm, HashState]:
        """A package, once nobody else of this run works on it under another name: it changes while they do.

        Args:
            stack: closes it, and lets those go on who wait for it.
        """
        while True:
            with contextlib.ExitStack() as opening:
                read = await self._in_thread(lambda: _read_rpm(opening, file, self._way))
                identity = read[0].status.st_dev, read[0].status.st_ino
                other = self._at_work.get(identity)
                if other is None:
                    self._at_work[identity] = trio.Event()
                    opening.callback(self._is_done_with, identity)
                    stack.push(opening.pop_all())
                    return read
            await other.wait()

    def _is_done_with(self, identity: tuple[int, int]) -> None:
        self._at_work.pop(identity).set()

    async def _sign_detached(self, file: Path, output: Path, read: "_Read") -> Result:
        with contextlib.ExitStack() as stack:
            original, state = await self._in_thread(lambda: read(stack, file, self._hash))
            sealed = await self._seal(state, file)
            await self._in_thread(lambda: _write_detached(original, output, sealed, armor=self._way.armor))
            await self._settled(str(output.parent))
        return Result(file, Outcome.SIGNED, signature=output, sealed=sealed)

    async def _seal(self, state: HashState, file: Path, package: str | None = None) -> Sealed:
        way = self._way
        return await self._sealer.seal(way.key, state, way.distribution, claims_about(self._us, file, package))

    async def _settled(self, directory: str) -> None:
        try:
            await self._settling.settled(directory)
        except OSError as error:
            reason = f"it is signed, and may be as it was after a loss of power: {error.strerror}"
            raise OSError(error.errno, reason) from error

    def _hash(self, file: BinaryIO) -> HashState:
        """The state of a document, in a thread; it may be so large that nobody who ends the run would wait for it."""
        return state_of_file(file, self._way.algorithm, lambda: self._hands is not None and self._hands.is_given_up)

    async def _sync(self, directory: str) -> None:
        await self._in_thread(lambda: sync_directory(directory))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._hands is None:
            raise LocalProtocolError("there is no run")
        return await self._hands.run(work)


_Sign = Callable[[Path], Awaitable[Result]]
_Hash = Callable[[BinaryIO], HashState]
_Read = Callable[[contextlib.ExitStack, Path, _Hash], tuple[Original, HashState]]


def _beside(file: Path, *, armor: bool) -> Path:
    # Not by with_name: `.` and `/` have none, and what they are is told when they are opened.
    return Path(f"{file}.asc" if armor else f"{file}.sig")


def _read_rpm(stack: contextlib.ExitStack, file: Path, way: Way) -> tuple[Original, Rpm, HashState]:
    original = stack.enter_context(opened(file))
    rpm = rpms.read(original.file)
    return original, rpm, state_of(rpm.header, way.algorithm)


def _write_rpm(original: Original, rpm: Rpm, sealed: Sealed) -> None:
    with replacement(original) as signed:
        rpms.write_signed(rpm, sealed.seal, original.file, original.status.st_size, signed)
    original.file.close()  # here: the last one to close a file that is gone waits for its removal


def _read_document(stack: contextlib.ExitStack, file: Path, hashed: _Hash) -> tuple[Original, HashState]:
    original = stack.enter_context(opened(file))
    return original, hashed(original.file)


def _read_metadata(stack: contextlib.ExitStack, file: Path, hashed: _Hash) -> tuple[Original, HashState]:
    try:
        original = stack.enter_context(opened(file))
    except FileNotFoundError as error:
        raise UnfitError(f"{error.strerror}; createrepo_c makes it") from error
    if _REPOMD not in original.file.read(_LOOKED_AT):
        raise UnfitError("it is no metadata of a repository")
    original.file.seek(0)
    return original, hashed(original.file)


def _write_detached(original: Original, output: Path, sealed: Sealed, *, armor: bool) -> None:
    """Whoever may read the file may read its signature, and only its owner write it.

    Raises:
        UnfitError: the file changed meanwhile, or its signature would take the place of something else.
        OSError: the signature cannot be written; the error says which.
    """
    original.check_unchanged()
    original.check_apart(output)
    try:
        with created(output, original.status.st_mode & 0o444 | 0o600) as signature:
            signature.write(sealed.seal.armored.encode("ascii") if armor else sealed.seal.packet)
    except OSError as error:
        raise OSError(error.errno, f"{os.fspath(output)!r} cannot be written: {error.strerror}") from error
