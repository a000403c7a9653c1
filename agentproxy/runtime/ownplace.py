"""Directories that nobody else can lead elsewhere, or put another one in the place of.

Root, above all, writes where a path leads: a link or a directory that somebody else has prepared would make it write,
give away or remove there, or hand them what it makes.
"""

import os
import stat
from pathlib import Path

from agentproxy.protocol.errors import ConfigError

__all__ = ["check_owner", "check_place", "refuse_link"]


def check_place(directory: Path, danger: str) -> None:
    """See that a directory is ours or root's, and that others can write neither in it nor above it.

    Args:
        danger: what they could do: "replace a socket".

    Raises:
        ConfigError: it is not, with what to do.
        OSError: it is not there, or cannot be looked at.
    """
    status = directory.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{directory}: expected a directory")
    if not _is_ours(status) or status.st_mode & 0o022:
        raise ConfigError(
            f"{directory}: others can write here, so they could {danger}",
            f"chown {directory} to root or to whom this runs as, and chmod go-w it",
        )
    _check_way(directory, danger)


def check_owner(path: Path, danger: str) -> None:
    """See that what is there, if anything, is ours or root's, and that nobody else leads us there or can rename it.

    Raises:
        ConfigError: it is somebody else's, or they can.
        OSError: it cannot be looked at.
    """
    refuse_link(path)
    if path.exists() and not _is_ours(status := path.stat()):
        raise ConfigError(f"{path}: belongs to uid {status.st_uid}, who could {danger}", "choose another, or chown it")
    _check_way(path, danger)


def refuse_link(path: Path) -> None:
    """See that no link of somebody else is in this place.

    Raises:
        ConfigError: one is.
        OSError: it cannot be looked at.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode) and not _is_ours(status):
        raise ConfigError(f"{path}: a symbolic link of uid {status.st_uid}", "find out who made it, and remove it")


def _check_way(directory: Path, danger: str) -> None:
    # Also the way to it, as it was written and as it is: whoever can rename a directory above can replace ours.
    for above in {*directory.absolute().parents, *directory.resolve().parents}:
        try:
            status = above.stat()
        except FileNotFoundError:
            continue
        # In a sticky directory such as /tmp nobody can rename what belongs to somebody else. Our own group is often
        # ours alone (umask 002).
        others = 0o002 if status.st_gid == os.getegid() else 0o022
        is_open = status.st_mode & others and not status.st_mode & stat.S_ISVTX
        if not _is_ours(status) or is_open:
            raise ConfigError(
                f"{directory}: others can write {above} above it, so they could {danger}",
                f"choose another place, or chown and chmod o-w {above}",
            )


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid in {0, os.geteuid()}
