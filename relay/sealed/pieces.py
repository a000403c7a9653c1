"""A file on its way to a signature: opened and read, then written anew or signed beside it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.seal_messages import Sealed
from relay.sealed import rpms
from relay.sealed.errors import UnfitError
from relay.sealed.fate import Existing, Way
from relay.sealed.replacement import Original, created, opened, replacement
from relay.sealed.rpms import Rpm
from relay.sealed.states import state_of

__all__ = ["Document", "Hash", "Package", "Piece", "beside", "read_document", "read_metadata", "read_package"]

_REPOMD = b"<repomd"
_LOOKED_AT = 4096  # bytes of a repomd.xml

Hash = Callable[[BinaryIO], HashState]


class Piece(Protocol):
    """What a run needs to know of an open file."""

    @property
    def state(self) -> HashState:
        """Of what is signed."""
        ...

    @property
    def package(self) -> str | None:
        """Its name, epoch, version, release and architecture, if it is one."""
        ...

    @property
    def identity(self) -> tuple[int, int] | None:
        """By which it is known under each of its names; None: it may be signed under two of them at once."""
        ...

    @property
    def is_kept(self) -> bool:
        """Whether it stays as it is."""
        ...

    @property
    def signature(self) -> Path:
        """The file that will hold the signature."""
        ...

    def put(self, sealed: Sealed) -> None:
        """Write the file that holds the signature, and put it in its place; its directory is not synced.

        Raises:
            UnfitError: the file has changed meanwhile, or it should not have that place.
            OSError: it cannot be written; the error says which.
        """
        ...

    @property
    def directory(self) -> str:
        """Where `put` changed something."""
        ...

    def close(self) -> None:
        """Let the file go."""
        ...


class Package:
    """An RPM, which will hold the signature itself."""

    def __init__(  # noqa: PLR0913, PLR0917  all that was read of it
        self, file: Path, way: Way, stack: contextlib.ExitStack, original: Original, rpm: Rpm, state: HashState
    ) -> None:
        self.signature = file
        self.package = rpm.nevra
        self.state = state
        self.identity = original.status.st_dev, original.status.st_ino
        self.is_kept = rpm.is_signed and way.existing is Existing.KEEP
        self.directory = original.directory
        self._stack = stack
        self._original = original
        self._rpm = rpm

    def put(self, sealed: Sealed) -> None:
        """As `Piece.put`."""
        original = self._original
        with replacement(original) as signed:
            rpms.write_signed(self._rpm, sealed.seal, original.file, original.status.st_size, signed)

    def close(self) -> None:
        """As `Piece.close`."""
        self._stack.close()


class Document:
    """Any file, which gets a signature beside it."""

    package = None
    identity = None
    is_kept = False

    def __init__(
        self, output: Path, way: Way, stack: contextlib.ExitStack, original: Original, state: HashState
    ) -> None:
        self.signature = output
        self.state = state
        self.directory = os.fspath(output.parent)
        self._is_armored = way.armor
        self._stack = stack
        self._original = original

    def put(self, sealed: Sealed) -> None:
        """As `Piece.put`: whoever may read the file may read its signature, and only its owner write it."""
        original, output, seal = self._original, self.signature, sealed.seal
        original.check_unchanged()
        original.check_apart(output)
        try:
            with created(output, original.status.st_mode & 0o444 | 0o600) as signature:
                signature.write(seal.armored.encode("ascii") if self._is_armored else seal.packet)
        except OSError as error:
            raise OSError(error.errno, f"{os.fspath(output)!r} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """As `Piece.close`."""
        self._stack.close()


def beside(file: Path, way: Way) -> Path:
    """Where a file's signature goes if nobody says otherwise."""
    # Not by with_name: `.` and `/` have none, and what they are is told when they are opened.
    return Path(f"{file}.asc" if way.armor else f"{file}.sig")


def read_package(file: Path, way: Way) -> Package:
    """Open an RPM, and read what is signed of it.

    Raises:
        UnfitError: it cannot be signed, or has a signature and should not.
        OSError: it cannot be read.
    """
    with contextlib.ExitStack() as opening:
        original = opening.enter_context(opened(file))
        rpm = rpms.read(original.file)
        if rpm.is_signed and way.existing is Existing.REFUSE:
            raise UnfitError("it has a signature already")
        state = state_of(rpm.header, way.algorithm)
        return Package(file, way, opening.pop_all(), original, rpm, state)


def read_document(file: Path, output: Path, way: Way, hashed: Hash) -> Document:
    """Open a file, and read it.

    Raises:
        UnfitError: it is no regular file.
        OSError: it cannot be read.
    """
    with contextlib.ExitStack() as opening:
        original = opening.enter_context(opened(file))
        state = hashed(original.file)
        return Document(output, way, opening.pop_all(), original, state)


def read_metadata(file: Path, way: Way, hashed: Hash) -> Document:
    """Open a repository's repomd.xml, and read it.

    Raises:
        UnfitError: there is none, or it is something else.
        OSError: it cannot be read.
    """
    with contextlib.ExitStack() as opening:
        try:
            original = opening.enter_context(opened(file))
        except FileNotFoundError as error:
            raise UnfitError(f"{error.strerror}; createrepo_c makes it") from error
        if _REPOMD not in original.file.read(_LOOKED_AT):
            raise UnfitError("it is no metadata of a repository")
        original.file.seek(0)
        state = hashed(original.file)
        return Document(beside(file, way), way, opening.pop_all(), original, state)
