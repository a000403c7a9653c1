import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime import systemd

ECHO = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
from agentproxy.runtime.systemd import listen_fds
found = listen_fds()
print({name: [s.getsockname() for s in sockets] for name, sockets in found.items()})
print([s.get_inheritable() for sockets in found.values() for s in sockets], listen_fds(), "LISTEN_FDS" in os.environ)
"""


def passed(environment: dict[str, str], *sockets: socket.socket, script: str = ECHO) -> str:
    # Descriptors 3, 4, … in the child, as systemd passes them.
    moves = "".join(f"os.dup2({s.fileno()}, {100 + n}, True);" for n, s in enumerate(sockets))
    moves += "".join(f"os.dup2({100 + n}, {3 + n}, True);" for n in range(len(sockets)))
    result = subprocess.run(
        [sys.executable, "-c", f"import os; {moves}\n{script}"],
        pass_fds=[s.fileno() for s in sockets],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return result.stdout + result.stderr


def test_sockets_come_by_name_once_and_stay_out_of_children() -> None:
    with tempfile.TemporaryDirectory(prefix="bo") as name:
        sockets = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for number, each in enumerate(sockets):
            each.bind(f"{name}/{number}")
        output = passed({"LISTEN_FDS": "3", "LISTEN_FDNAMES": "std:other:std"}, *sockets)
        for each in sockets:
            each.close()
    assert output.splitlines() == [
        f"{{'std': ['{name}/0', '{name}/2'], 'other': ['{name}/1']}}",
        "[False, False, False] {} False",
    ]


@pytest.mark.parametrize("count", ["0", "-1", "1_0", "65", "x", ""])
def test_a_wrong_count_of_sockets_is_refused(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(ConfigError, match="LISTEN_FDS: expected 1 to 64"):
        systemd.listen_fds()


def test_names_that_do_not_fit_are_refused_and_another_process_sockets_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "a:b")
    with pytest.raises(ConfigError, match="expected 1 names, got 2"):
        systemd.listen_fds()
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.listen_fds() == {}


@pytest.mark.parametrize("passes", ["os.dup2(os.open(os.devnull, os.O_RDONLY), 3)", "os.closerange(3, 64)"])
def test_what_is_no_socket_is_told_and_no_traceback(passes: str) -> None:
    code = (
        "import os\n"
        "from agentproxy.protocol.errors import ConfigError\n"
        "from agentproxy.runtime.systemd import listen_fds\n"
        f"{passes}\n"
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'gpg'}\n"
        "try:\n"
        "    listen_fds()\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.startswith("what systemd passed as 'gpg' is no socket: "), done.stderr


def test_a_notification_arrives_and_a_value_stays_on_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="bo") as name, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as parent:
        parent.bind(f"{name}/notify")
        parent.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{name}/notify")
        systemd.notify(READY="1", STATUS="a\nREADY=0")
        assert parent.recv(4096) == b"READY=1\nSTATUS=a READY=0\n"


def test_an_abstract_address_works(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as parent:
        parent.bind(f"\0bo-test-{os.getpid()}")
        parent.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@bo-test-{os.getpid()}")
        systemd.notify(READY="1")
        assert parent.recv(4096) == b"READY=1\n"


@pytest.mark.parametrize("address", ["", "relative", "/gone/notify"])
def test_nobody_to_notify_is_no_error(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.notify(READY="1")


def test_a_daemon_without_a_free_descriptor_does_not_die_of_notifying() -> None:
    code = (
        "import os, resource\n"
        "from agentproxy.runtime import systemd\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(2), 64))\n"
        "systemd.notify(WATCHDOG='1')\n"
    )
    environment = {**os.environ, "NOTIFY_SOCKET": "/gone/notify"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_parent_that_does_not_read_does_not_stop_us(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bo") as name, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as parent:
        parent.bind(f"{name}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{name}/notify")
        for _ in range(1000):
            systemd.notify(STATUS="x" * 1000)
        parent.setblocking(False)
        kept = 0
        with contextlib.suppress(BlockingIOError):
            while parent.recv(4096):
                kept += 1
        assert 0 < kept < 1000  # what found no room was dropped, and not waited for


ACCEPTS = """
import os, socket
os.environ["LISTEN_PID"] = str(os.getpid())
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.systemd import listeners
try:
    print({name: len(group) for name, group in listeners({"gpg", "control"}, {socket.AF_UNIX}).items()})
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("family", "kind", "name", "is_listening", "words"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, "gpg", True, "{'gpg': 1}"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "relay.socket", True, "'relay.socket', expected control or gpg"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "gpg", False, "does not listen"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, "gpg", False, "is AF_UNIX SOCK_DGRAM, expected AF_UNIX"),
        (socket.AF_INET, socket.SOCK_STREAM, "gpg", True, "is AF_INET SOCK_STREAM, expected AF_UNIX"),
    ],
)
def test_only_sockets_that_a_daemon_can_use_are_taken(
    family: socket.AddressFamily, kind: socket.SocketKind, name: str, is_listening: bool, words: str
) -> None:
    with socket.socket(family, kind) as one:
        one.bind(("127.0.0.1", 0) if family is socket.AF_INET else f"\0bo-listeners-{os.getpid()}")
        if is_listening:
            one.listen()
        assert words in passed({"LISTEN_FDS": "1", "LISTEN_FDNAMES": name}, one, script=ACCEPTS)


async def test_the_watchdog_is_fed_twice_in_its_time(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as parent:
        parent.bind(f"\0bo-watchdog-{os.getpid()}")
        parent.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@bo-watchdog-{os.getpid()}")
        monkeypatch.setenv("WATCHDOG_USEC", "20000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        with trio.move_on_after(35):
            await systemd.keep_watchdog()
        assert [parent.recv(99) for _ in range(4)] == [b"WATCHDOG=1\n"] * 4
        parent.setblocking(False)
        with pytest.raises(BlockingIOError):
            parent.recv(99)


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}])
async def test_somebody_elses_watchdog_is_not_fed(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], autojump_clock: trio.testing.MockClock
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with trio.fail_after(1):
        await systemd.keep_watchdog()


@pytest.mark.parametrize("value", ["0", "-1", "1_0", "x"])
async def test_a_watchdog_that_nobody_could_feed_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", value)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with pytest.raises(ConfigError, match="WATCHDOG_USEC: expected microseconds"):
        await systemd.keep_watchdog()


async def test_a_status_is_told_when_it_has_changed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    words = ["a", "a", "b", "b", "b", "c"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as parent:
        parent.bind(f"\0bo-status-{os.getpid()}")
        parent.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@bo-status-{os.getpid()}")
        with trio.move_on_after(6 * systemd.STATUS_SECONDS + 1):
            await systemd.keep_status(lambda: words.pop(0))
        assert [parent.recv(99) for _ in range(3)] == [b"STATUS=a\n", b"STATUS=b\n", b"STATUS=c\n"]
