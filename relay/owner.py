"""Works in a directory as its owner, so that root follows no trap that a user has laid there.

A user's GnuPG home names programs that gpg starts; root must not be the one who starts them.
"""

import os
import pwd
import select
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from agentproxy.protocol.errors import ConfigError

__all__ = ["as_owner_of", "owner_of"]

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_MOST_TOLD = 65_536  # bytes
_HINT = "\0"  # between an error and its hint
# What is done takes a second. A user can make it last for ever, with a pipe where a file belongs or a signal to the
# child, which is his: root's other work must not wait behind that.
TASK_SECONDS = 120.0
END_SECONDS = 2.0  # for a child that was told to end, to take away what it has half written


def owner_of(path: Path) -> int:
    """The uid that `path` belongs to; while it is missing, the one that the directory above belongs to.

    Raises:
        ConfigError: it cannot be looked at; or somebody else than root and the owner could put another directory in
            its place, and we are root.
    """
    try:
        there = next(one for one in (path, *path.parents) if one.exists())
        uid = there.stat().st_uid
        if os.geteuid() == 0:
            _check_above(path, there, uid)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be looked at: {error.strerror}") from error
    return uid


def _check_above(path: Path, there: Path, uid: int) -> None:
    # Also the place itself, while there is nothing: what is made there is to stay what was made.
    for above in {*there.resolve().parents, *there.parents, *(() if there == path else (there,))}:
        status = above.stat()
        is_open = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        if status.st_uid not in {0, uid} or is_open:
            raise ConfigError(f"{path}: others can write {above} above it", "root works only where nobody else can")


def as_owner_of(path: Path, task: Callable[[], str]) -> str:
    """Run `task` as the owner of `path`, and return what it returns; in a child process if that is somebody else.

    Raises:
        ConfigError: whatever the task raised; or only root could become that user.
    """
    uid = owner_of(path)
    if uid == os.geteuid():
        return task()
    if os.geteuid() != 0:
        raise ConfigError(f"{path}: belongs to uid {uid}", "do it as that user or as root")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(uid, task, writer)
    try:
        os.close(writer)
        told = _told(reader).decode("utf-8", "surrogateescape")
        _, status = os.waitpid(child, 0)
    except TimeoutError:
        _end(child)
        raise ConfigError(f"{path}: the work as uid {uid} took more than {TASK_SECONDS:.0f} s") from None
    except BaseException:  # Ctrl-C and SIGTERM above all, which the child in its own session does not hear
        _end(child)
        raise
    finally:
        os.close(reader)
    if status != 0:
        words, _, hint = told.partition(_HINT)
        raise ConfigError(words or f"{path}: the work as uid {uid} {_outcome(status)}", hint)
    return told


def _end(child: int) -> None:
    """Let the child and what it has started end, kill what is left of them after END_SECONDS, and wait for it."""
    try:
        _signal(child, signal.SIGTERM)
        with suppress(ProcessLookupError), os.fdopen(os.pidfd_open(child), "rb") as ended:
            select.select([ended], [], [], END_SECONDS)
    finally:
        # Not waited for until now, so that nobody else can have got its pid.
        _signal(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def _signal(child: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child, number)
    with suppress(ProcessLookupError):
        os.kill(child, number)  # it may not have come to the head of its own group yet


def _outcome(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"ended with exit status {code}" if code >= 0 else f"was ended by signal {-code}"


def _told(reader: int) -> bytes:
    """All that the child tells."""
    told, until = b"", time.monotonic() + TASK_SECONDS
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        more = os.read(reader, _MOST_TOLD)
        if not more:
            return told
        told += more


def _run(uid: int, task: Callable[[], str], writer: int) -> NoReturn:
    """In the child: become the user, for good, and tell the parent what came of it."""
    status = 1
    told = ""
    try:
        signal.signal(signal.SIGTERM, _leave)
        os.setsid()
        _become(uid)
        told, status = task(), 0
    except ConfigError as error:
        told = f"{error}{_HINT}{error.hint}"
    except Exception as error:  # noqa: BLE001  the parent tells it; above this is the parent's own code, not ours
        told = f"{type(error).__name__}: {error}"
    finally:
        outcome = 1
        try:
            os.write(writer, told.encode("utf-8", "surrogateescape")[:_MOST_TOLD])
            sys.stdout.flush()
            outcome = status
        finally:
            os._exit(outcome)  # whatever went wrong: what comes after this is the parent's work


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not disturb what the first one lets us take away
    sys.exit(128 + number)


def _become(uid: int) -> None:
    try:
        entry = pwd.getpwuid(uid)
        group, home, groups = entry.pw_gid, entry.pw_dir, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except KeyError:
        group, home, groups = uid, "/", [uid]
    os.setgroups(groups)
    os.setresgid(group, group, group)
    os.setresuid(uid, uid, uid)
    os.umask(0o022)
    os.chdir("/")
    # Root's own settings, its GNUPGHOME above all, are not the user's.
    os.environ.clear()
    os.environ.update({"PATH": _PATH, "HOME": home, "LC_ALL": "C.UTF-8"})
    tempfile.tempdir = None  # looked for anew: root may have found one of its own in TMPDIR
