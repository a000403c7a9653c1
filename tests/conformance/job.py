"""One tool signs once: what it ran and said, and the things that it signed."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.release import Done, Release
from tests.conformance.workshop import Key, Workshop

__all__ = ["Cleartext", "Detached", "Job", "NotSignedError", "Package", "Signed"]

_NUMBER = re.compile(r"\b[0-9a-fA-F]{8,}\b|[0-9]+")


class NotSignedError(Exception):
    """The tool did not sign, or nobody believes what it made."""


@dataclass(frozen=True, slots=True)
class Detached:
    """A file and the signature beside it."""

    signature: Path
    file: Path


@dataclass(frozen=True, slots=True)
class Cleartext:
    """A text with its signature below."""

    file: Path


@dataclass(frozen=True, slots=True)
class Package:
    """An RPM that holds its signature."""

    file: Path


Signed = Detached | Cleartext | Package


@dataclass(slots=True)
class Job:
    """A tool's place to work: a release, a GnuPG home, a key and a directory."""

    shop: Workshop
    release: Release
    home: Path
    key: Key
    directory: Path
    said: list[str] = field(default_factory=list)

    def run(self, *words: str | Path, text: str = "") -> Done:
        """Run a program and keep what it says.

        Raises:
            NotSignedError: it failed.
        """
        done = self.release.run(*words, home=self.home, at=self.directory, text=text)
        self.said += [*done.stdout.splitlines(), *done.stderr.splitlines()]
        if done.returncode != 0:
            raise NotSignedError(f"{words[0]}: exit status {done.returncode}: {done.stderr.strip()}")
        return done

    def look(self, *words: str | Path) -> str:
        """What a program shows that has nothing to do with signing."""
        done = self.release.run(*words, home=self.home, at=self.directory)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def file(self, name: str, text: str = "some text\n") -> Path:
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    @property
    def lines(self) -> frozenset[str]:
        """What was said, without what differs each time: places, numbers, hashes."""
        return frozenset(
            _NUMBER.sub("#", line.replace(str(self.directory), "DIR").replace(str(self.home), "HOME")).strip()
            for line in self.said
        )
