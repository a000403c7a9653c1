"""What systemd hands to a service, and what a service tells it; both also work for any parent that does the same.

Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3). Children must not see these variables: `listen_fds`
removes its own, and whoever starts a child leaves out the others (`VARIABLES` names all).
"""

import errno
import os
import socket
from collections.abc import Callable, Collection, Mapping

import trio

from agentproxy.protocol.errors import ConfigError

__all__ = ["VARIABLES", "keep_status", "keep_watchdog", "listen_fds", "listeners", "notify", "port_hint"]

VARIABLES = frozenset({"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
STATUS_SECONDS = 5.0  # how old STATUS= may be; who wants to know exactly asks the daemon itself
_FIRST = 3  # SD_LISTEN_FDS_START
_MOST = 64
UNNAMED = "unknown"  # systemd's own word for a socket without FileDescriptorName=


def listen_fds() -> dict[str, list[socket.socket]]:
    """Take the sockets that were passed to this process, by name; empty when there are none. Works once.

    Raises:
        ConfigError: the variables contradict each other, or there is something else than a socket (ListenFIFO=).
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "")
    if pid != str(os.getpid()):
        return {}  # they were meant for a parent of ours
    if not count.isascii() or not count.isdecimal() or not 1 <= int(count) <= _MOST:
        raise ConfigError(f"LISTEN_FDS: expected 1 to {_MOST}, got {count!r}")
    listed = names.split(":") if names else [UNNAMED] * int(count)
    if len(listed) != int(count):
        raise ConfigError(f"LISTEN_FDNAMES: expected {count} names, got {len(listed)}")
    sockets: dict[str, list[socket.socket]] = {}
    for number, name in enumerate(listed, _FIRST):
        sockets.setdefault(name, []).append(_taken(number, name))
    return sockets


def _taken(number: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(number, False)  # noqa: FBT003  the os module's own signature
        return socket.socket(fileno=number)
    except OSError as error:
        hint = "systemctl cat shows the .socket unit: ListenStream= names a socket, ListenFIFO= and others do not"
        raise ConfigError(f"what systemd passed as {name!r} is no socket: {error.strerror}", hint) from error


def port_hint(error: OSError, unit: str) -> str:
    """What to do about a port that our packages' oracle cannot open: its unit may make no socket of the network.

    Args:
        unit: the socket unit that opens the port there.

    Returns:
        Empty: the port cannot be opened for another reason.
    """
    if error.errno != errno.EAFNOSUPPORT:
        return ""
    return f"in systemd's sandbox only a socket unit opens ports: systemctl enable {unit}, then restart"


def listeners(known: Collection[str], families: Collection[int]) -> Mapping[str, list[trio.SocketListener]]:
    """What `listen_fds` gives, ready to accept; only sockets that the daemon can use, under names that it knows.

    Args:
        known: values of FileDescriptorName= that mean something to this daemon.
        families: such as AF_UNIX.

    Raises:
        ConfigError: another name, or a socket of another kind, or one that does not listen (Accept=yes).
    """
    found = listen_fds()
    try:
        for name, sockets in found.items():
            _check_name(name, known)
            for one in sockets:
                _check(name, one, families)
    except ConfigError:
        for one in (one for sockets in found.values() for one in sockets):
            one.close()
        raise
    return {name: [_listener(one) for one in sockets] for name, sockets in found.items()}


def _check_name(name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"systemd passed a socket named {name!r}, expected {' or '.join(sorted(known))}",
            "FileDescriptorName= in the socket unit",
        )


def _check(name: str, one: socket.socket, families: Collection[int]) -> None:
    if one.family not in families or one.type != socket.SOCK_STREAM:
        kind = f"{one.family.name} {one.type.name}"
        wanted = " or ".join(socket.AddressFamily(family).name for family in families)
        raise ConfigError(f"the socket {name} that systemd passed is {kind}, expected {wanted}", "ListenStream=")
    if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(f"the socket {name} that systemd passed does not listen", "Accept=no in the socket unit")


def _listener(one: socket.socket) -> trio.SocketListener:
    one.setblocking(False)  # noqa: FBT003  the socket module's own signature
    return trio.SocketListener(trio.socket.from_stdlib_socket(one))


def notify(**fields: str) -> None:
    """Send fields such as READY="1" or STATUS="…" to whoever started us; without NOTIFY_SOCKET do nothing.

    A parent that is gone is not an error: a daemon must not die of it.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "".join(f"{name}={' '.join(value.split())}\n" for name, value in fields.items())
    try:
        # Without a free descriptor there is no socket: that passes, and the next notification goes out.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            # A parent that does not read must not stop us.
            sender.setblocking(False)  # noqa: FBT003  the socket module's own signature
            sender.sendto(message.encode(), address)
    except OSError:
        return


async def keep_watchdog() -> None:
    """Tell systemd, twice in each WatchdogSec=, that the event loop turns; without a watchdog return at once.

    Raises:
        ConfigError: WATCHDOG_USEC is no number: nobody would feed the dog.
    """
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds or pid not in {"", str(os.getpid())}:
        return
    if not microseconds.isascii() or not microseconds.isdecimal() or int(microseconds) == 0:
        raise ConfigError(f"WATCHDOG_USEC: expected microseconds, got {microseconds!r}")
    while True:
        notify(WATCHDOG="1")
        await trio.sleep(int(microseconds) / 2e6)


async def keep_status(describe: Callable[[], str]) -> None:
    """Let `systemctl status` show what `describe` says, until cancelled; without NOTIFY_SOCKET return at once."""
    told = ""
    while "NOTIFY_SOCKET" in os.environ:
        await trio.sleep(STATUS_SECONDS)  # what there is to say at the start goes out with READY=1
        if (words := describe()) != told:
            notify(STATUS=words)
            told = words
