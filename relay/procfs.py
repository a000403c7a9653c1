"""Looks at other processes: command lines, parents, open files, environment. Every read is bounded, and a command line
is made fit for the audit log.

Any of it may block, since the memory and the files are another's (a page on a dead NFS server, a userfaultfd), so
only `relay.caller`'s threads call this. Sources: proc(5); CVE-2018-1120 for what a caller can do to its readers.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from agentproxy.protocol.fields import MAX_CLAIM
from relay.cleaning import clean
from relay.secretwords import without_secrets

__all__ = ["Process", "environment", "open_files", "open_regular", "process", "read", "working_directory"]

_MOST_COMMAND = 131_072  # bytes: `rpmsign --addsign` with a thousand files on its command line
_MOST_ENVIRONMENT = 262_144  # bytes; a GitLab job has some 20 000
_MOST_FILES = 256  # descriptors that we look at
# The command stands in parentheses and may hold any byte.
_PARENT = re.compile(rb"\) [A-Za-z] ([0-9]+) ")


@dataclass(frozen=True)
class Process:
    """A process as it was when we looked; its pid may be another's by now.

    What follows from its words is kept: rpmsign is looked at for each of a thousand packages on its command line.
    """

    pid: int
    words: tuple[str, ...]  # its command line; whoever runs it chooses it
    parent: int

    @cached_property
    def program(self) -> str:
        """The last part of its first word."""
        return os.path.basename(self.words[0]) if self.words else ""  # noqa: PTH119  half a Path's time

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """The words behind the first that are no options."""
        return tuple(word for word in self.words[1:] if not word.startswith("-"))

    @cached_property
    def names(self) -> frozenset[str]:
        """The last part of each of these, as a path."""
        return frozenset(word.rpartition("/")[2] for word in self.arguments)  # a third of basename's time

    @cached_property
    def claim(self) -> str:
        """The command line as one text for the audit log: its beginning, without secrets and control characters."""
        words = without_secrets(word[:MAX_CLAIM] for word in self.words)
        return clean(_beginning(words, MAX_CLAIM), MAX_CLAIM)


def process(pid: int) -> Process | None:
    """A process; None when it is gone or we may not look at it."""
    try:
        words = read(f"/proc/{pid}/cmdline", _MOST_COMMAND).decode("utf-8", "replace").rstrip("\0").split("\0")
        parents = _PARENT.findall(read(f"/proc/{pid}/stat", 4096))
    except OSError:
        return None
    return Process(pid, tuple(words), int(parents[-1]) if parents else 0)


def _beginning(words: Iterator[str], most: int) -> str:
    """The first words, by blanks, and at least so many characters of them: rpmsign may have a thousand more."""
    taken, length = [], 0
    for word in words:
        taken.append(word)
        length += len(word) + 1
        if length > most:
            break
    return " ".join(taken)


def environment(pid: int, wanted: re.Pattern[bytes]) -> list[tuple[str, str]]:
    """Names and values that the process was started with; none when we may not look at them.

    Args:
        wanted: finds those that are wanted, name and value, in a text in which NUL precedes each NAME=VALUE. It is one
            call for hundreds of variables, quick when it begins with that NUL.
    """
    try:
        data = read(f"/proc/{pid}/environ", _MOST_ENVIRONMENT)
    except OSError:
        return []
    return [(name.decode("ascii"), value.decode("utf-8", "replace")) for name, value in wanted.findall(b"\0" + data)]


def open_files(pid: int) -> Iterator[tuple[int, str]]:
    """Descriptors of files with the paths that the process knows them by; none when we may not look at them."""
    try:
        numbers = sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd") if name.isdecimal())  # noqa: PTH208
    except OSError:
        return
    for number in numbers[:_MOST_FILES]:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")  # noqa: PTH115
        except OSError:
            continue  # closed meanwhile
        if target.startswith("/"):  # not pipe:[…], socket:[…], anon_inode:…
            yield number, target.removesuffix(" (deleted)")


def working_directory(pid: int) -> str | None:
    """Where the process is; None when we may not look at it."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115
    except OSError:
        return None


def open_regular(path: str, *, follow: bool) -> int:
    """Open a file for reading if it is a regular one: a FIFO, a device or a socket is not even opened.

    Args:
        follow: whether the last component may be a symbolic link, as in /proc/PID/fd.

    Raises:
        OSError: it cannot be opened, at once, or is of another kind.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(f"{path}: not a regular file")
        # The same file, whatever the path leads to by now. O_NONBLOCK: its owner may hold a lease on it.
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        os.close(place)


def read(path: str, most: int) -> bytes:
    """The beginning of a file, in plain system calls: file objects take twice the time."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most)  # whole: these files are made at the moment of reading
    finally:
        os.close(descriptor)
