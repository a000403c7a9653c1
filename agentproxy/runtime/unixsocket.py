"""Unix sockets: binding one that nobody else can put in our place, and who is on the other side.

Source: unix(7). The kernel vouches for what `Peer` says, as of the moment of connect().
"""

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.directstream import DirectStream
from agentproxy.runtime.ownplace import check_place
from agentproxy.runtime.peer import Peer

__all__ = ["MAX_PATH", "bind", "check_inherited", "peer_of"]

MAX_PATH = 107  # bytes; sockaddr_un has 108 with the final NUL
BACKLOG = 4096  # a `rpmsign` farm connects all at once, and a full queue makes gpg fail, not wait
PROBE_SECONDS = 2.0  # a daemon whose queue is full is alive
SO_PEERGROUPS = 59  # asm-generic/socket.h; the socket module does not have it
_CREDENTIALS = struct.Struct("iII")
_MOST_GROUPS = 256  # getsockopt() of the socket module takes no buffer above 1024 bytes


def bind(path: Path, mode: int) -> trio.SocketListener:
    """Listen at `path` with permission bits `mode`, replacing a socket that nobody listens on any more.

    The directory must belong to us or root, and others must not be able to write there: whoever can, could put a
    socket of their own in our place.

    Raises:
        ConfigError: the path is too long, is a symlink or no socket, somebody listens there, or the directory is
            missing or writable by others.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise ConfigError(f"{path}: a socket's path has at most {MAX_PATH} bytes")
    _check_directory(path.parent)
    with _locked(path):
        _make_room(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Before chmod nobody but us may connect, whatever the umask; before listen() nobody can.
            umask = os.umask(0o177)
            try:
                listening.bind(os.fspath(path))
            finally:
                os.umask(umask)
            path.chmod(mode)
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            raise ConfigError(f"{path}: cannot listen: {error.strerror}") from error
    listening.setblocking(False)  # noqa: FBT003  the socket module's own signature
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


def check_inherited(listener: trio.SocketListener, path: Path) -> None:
    """Look at a socket that somebody else has bound for us, as `bind` looks at its own.

    Raises:
        ConfigError: it lies elsewhere, has been replaced, or others can replace it.
    """
    name = listener.socket.getsockname()
    _check_directory(path.parent)
    if not isinstance(name, str) or not _is_same_place(Path(name), path):
        raise ConfigError(f"{path}: systemd passed the socket {name!r} for it", "ListenStream= says where")
    try:
        status = path.lstat()
    except OSError as error:
        raise ConfigError(f"{path}: systemd's socket is not there any more: {error.strerror}") from error
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path}: expected systemd's socket, found another kind of file")


def _is_same_place(one: Path, other: Path) -> bool:
    """Whether two paths name one entry of one directory, however they lead there."""
    try:
        return one.name == other.name and one.parent.samefile(other.parent)
    except OSError:
        return False


def _check_directory(directory: Path) -> None:
    try:
        check_place(directory, "replace a socket")
    except OSError as error:
        raise ConfigError(f"{directory}: cannot hold a socket: {error.strerror}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Two daemons that start at once must not both find the old socket dead and remove each other's new one.
    file = path.with_name(f".{path.name}.lock")
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be locked: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(f"{path}: another process is about to listen here") from error
    finally:
        os.close(lock)


def _make_room(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise ConfigError(f"{path}: expected a socket or nothing, found a symbolic link")
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path}: expected a socket or nothing, found another kind of file")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        code = probe.connect_ex(os.fspath(path))
    if code != errno.ECONNREFUSED:
        raise ConfigError(f"{path}: another process listens here", f"ss -xlp src {path} shows which")
    path.unlink()


def peer_of(stream: trio.SocketStream | DirectStream) -> Peer:
    """Who connected, as the kernel recorded it at connect(); groups include supplementary ones.

    A peer with more than 256 groups keeps its primary group only: fewer rights, never more.
    """
    options = stream.socket
    pid, uid, gid = _CREDENTIALS.unpack(options.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        raw = options.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        raw = b""
    groups = struct.unpack(f"{len(raw) // 4}I", raw)
    return Peer(pid, uid, gid, tuple(sorted({gid, *groups})))
