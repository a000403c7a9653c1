"""Works in a directory as its owner, so that root follows no trap that a user has laid there.

A user's GnuPG home names programs that gpg starts; root must not be the one who starts them.
"""

import os
import pwd
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from agentproxy.protocol.errors import ConfigError

__all__ = ["as_owner_of", "owner_of"]

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_MOST_TOLD = 65_536  # bytes
# What is done takes a second. A user can make it last for ever, with a pipe where a file belongs or a signal to the
# child, which is his: root's other work must not wait behind that.
TASK_SECONDS = 120.0


def owner_of(path: Path) -> int:
    """The uid that `path` belongs to; while it is missing, the one that the directory above belongs to.

    Raises:
        ConfigError: somebody else than root and the owner could put another directory in its place, and we are root.
    """
    there = next(one for one in (path, *path.parents) if one.exists())
    uid = there.stat().st_uid
    if os.geteuid() == 0:
        # Also the place itself, while there is nothing: what is made there is to stay what was made.
        for above in {*there.resolve().parents, *there.parents, *(() if there == path else (there,))}:
            status = above.stat()
            is_open = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
            if status.st_uid not in {0, uid} or is_open:
                raise ConfigError(f"{path}: others can write {above} above it", "root works only where nobody else can")
    return uid


def as_owner_of(path: Path, task: Callable[[], str]) -> str:
    """Run `task` as the owner of `path`, and return what it returns; in a child process if that is somebody else.

    Raises:
        ConfigError: whatever the task raised, without its hint; or only root could become that user.
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
    os.close(writer)
    try:
        told = _told(reader).decode("utf-8", "replace")
    except TimeoutError:
        os.killpg(child, signal.SIGKILL)  # and what it has started
        raise ConfigError(f"{path}: the work as uid {uid} took more than {TASK_SECONDS:.0f} s") from None
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    if status != 0:
        raise ConfigError(told or f"{path}: the work as uid {uid} ended with status {status}")
    return told


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
        os.setsid()
        _become(uid)
        told, status = task(), 0
    except ConfigError as error:
        told = str(error)
    except Exception as error:  # noqa: BLE001  the parent tells it; above this is the parent's own code, not ours
        told = f"{type(error).__name__}: {error}"
    finally:
        os.write(writer, told.encode()[:_MOST_TOLD])
        sys.stdout.flush()
        os._exit(status)


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
