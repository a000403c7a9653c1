"""Garbage, crowds and silence at every door, and parts that hang: signing goes on, or ends in clear words."""

import contextlib
import os
import random
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from relay.config import load_config
from tests.end_to_end.hostile import dialer_of
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, System, until

DEADLINE_SECONDS = 10  # of a dev system's relay
CROWD = 1100  # more than the 1024 descriptors that a process has unless it asks for more


def doors(system: System) -> dict[str, Callable[[], socket.socket]]:
    """Everything that listens, as a function that connects there."""
    (oracle,) = load_config(system.directory / "relay" / "relay.yaml").oracles

    def unix(path: Path) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        connection.connect(str(path))
        return connection

    return {
        "oracle": lambda: socket.create_connection((oracle.host, oracle.port), SECONDS),
        "relay": lambda: unix(system.socket),
        "control": lambda: unix(system.directory / "relay" / "state" / "control.sock"),
        "signer": lambda: unix(system.directory / "run" / "signer.sock"),
    }


def everything_works(system: System, pids: list[int | None]) -> None:
    done = system.sign()
    assert done.returncode == 0, done.stderr
    assert system.is_connected()
    assert [system.pid(part) for part in ("oracle", "signer", "relay")] == pids
    for part in ("oracle", "relay"):
        assert "Traceback" not in system.log(part), system.log(part).partition("Traceback")[2][:3000]
    system.assert_log_is_whole()


@pytest.fixture
def pids(system: System) -> list[int | None]:
    return [system.pid(part) for part in ("oracle", "signer", "relay")]


def garbage() -> Iterator[bytes]:
    chance = random.Random(7)
    yield b""
    yield b"\n" * 5000
    yield b"GET / HTTP/1.1\r\nHost: oracle\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(400)  # begins like TLS
    yield struct.pack(">I", 0xFFFFFFFF) + b"x" * 100
    yield struct.pack(">I", 65536) + chance.randbytes(65536)
    for body in (
        b"{}",
        b"[]",
        b'{"type":"sign"}',
        b"[" * 60000,
        b"1" * 60000,
        b'{"type":"status","id":1e999}',
        b"\xff" * 9,
    ):
        yield struct.pack(">I", len(body)) + body
        yield body + b"\n"
    yield b"\0" * 100_000
    yield chance.randbytes(1_000_000)


@pytest.mark.parametrize("door", ["oracle", "relay", "control", "signer"])
def test_garbage_at_a_door_disturbs_nobody(system: System, pids: list[int | None], door: str) -> None:
    connect = doors(system)[door]
    for junk in garbage():
        with connect() as connection:
            try:
                connection.sendall(junk)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except OSError:
                pass  # it closed: so it should
    everything_works(system, pids)


@contextmanager
def few_open_files() -> Iterator[None]:
    """What a shell or systemd gives to a process: 1024 open files, unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("door", ["oracle", "relay"])
def test_a_crowd_that_says_nothing_leaves_room_for_the_others(system: System, door: str) -> None:
    with few_open_files():
        system.stop()
        system.start()
    pids = [system.pid(part) for part in ("oracle", "signer", "relay")]
    connect = doors(system)[door]
    with ExitStack() as crowd:
        for _ in range(CROWD):
            crowd.enter_context(connect())
        everything_works(system, pids)
        if door == "relay":  # and it can still reach an oracle that was away meanwhile
            system.stop("oracle")
            system.start("oracle")
            assert system.sign().returncode == 0
    assert system.sign().returncode == 0


async def test_a_frame_beyond_the_limit_from_a_greeted_relay_ends_its_connection_alone(
    system: System, pids: list[int | None]
) -> None:
    dialer, oracle = dialer_of(system)
    for payload in (struct.pack(">I", 1 << 31), struct.pack(">I", 10) + b"0123456789", struct.pack(">I", 0)):
        tls = await dialer.connect(oracle)
        await tls.send_all(payload)
        with trio.fail_after(SECONDS), contextlib.suppress(trio.BrokenResourceError):
            while await tls.receive_some():
                pass
        await trio.aclose_forcefully(tls)
    everything_works(system, pids)


@contextmanager
def stopped(pid: int | None) -> Iterator[None]:
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("part", ["signer", "oracle"])
def test_a_part_that_hangs_costs_gpg_its_deadline_and_no_more(system: System, part: str) -> None:
    pids = [system.pid(name) for name in ("oracle", "signer", "relay")]
    with stopped(system.pid(part)):
        began = time.monotonic()
        done = system.sign()
        took = time.monotonic() - began
        assert done.returncode == 2
        assert any(words in done.stderr for words in ("Timeout", "Network error", "Not operational")), done.stderr
        assert took < DEADLINE_SECONDS + 5
    until(lambda: system.sign().returncode == 0, "it goes on")
    assert [system.pid(name) for name in ("oracle", "signer", "relay")] == pids
    system.assert_log_is_whole()


def test_gpg_that_hangs_or_dies_in_the_middle_holds_nobody(
    system: System, pids: list[int | None], offline: Offline
) -> None:
    """Fifty clients that asked for a signature and read nothing, or went away."""
    ask = f"SIGKEY {offline.keygrips['modern']}\nSETHASH 8 {'AB' * 32}\nPKSIGN\n".encode()
    with ExitStack() as crowd:
        for number in range(50):
            connection = crowd.enter_context(doors(system)["relay"]())
            connection.sendall(ask * (1 + number % 3))
            if number % 2:
                connection.close()
        everything_works(system, pids)
    everything_works(system, pids)
