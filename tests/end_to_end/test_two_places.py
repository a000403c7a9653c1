"""Two systems on one machine do not meet, and one that was stopped leaves nothing, wherever it lies."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentproxy.admin.dev.processes import find
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, System, system_with

NAME = 'it\'s a "dir" & more'


@pytest.fixture(name="other", scope="module")
def second_system(offline: Offline) -> Iterator[System]:
    """It has the same name for another key, in a directory that a careless shell line would break on."""
    with system_with({"modern": offline.exports["legacy"]}, name=NAME) as system:
        yield system


def test_two_systems_have_nothing_in_common(system: System, other: System, offline: Offline) -> None:
    counts = len(system.signed()), len(other.signed())
    assert other.sign("legacy").returncode == 0
    assert other.sign("modern").returncode == 2
    assert (len(system.signed()), len(other.signed())) == (counts[0], counts[1] + 1)
    assert {record["keygrip"] for record in other.signed()} == {offline.keygrips["legacy"]}


def test_no_credential_is_the_same(system: System, other: System) -> None:
    for name in ("token", "authority.crt", "client.crt"):
        files = [one.directory / "relay" / "state" / "credentials" / "current" / name for one in (system, other)]
        assert files[0].read_bytes() != files[1].read_bytes()


def test_stopping_one_leaves_the_other_and_no_process_of_its_own(
    system: System, other: System, offline: Offline
) -> None:
    other.run("gpg-connect-agent", "--no-autostart", "NOP", "/bye")
    other.stop()
    assert list(find(at=other.directory)) == []
    socket_directory = Path(other.run("gpgconf", "--list-dirs", "agent-socket").stdout.strip()).parent
    assert socket_directory == other.directory / "relay" / "gnupg" or not list(socket_directory.glob("*"))
    failed = other.sign("legacy")
    assert failed.returncode == 2
    assert list(find(at=other.directory)) == []  # gpg did not start an agent of its own
    assert system.sign().returncode == 0
    other.start()
    assert other.sign("legacy").returncode == 0


def test_it_starts_from_an_empty_environment_and_in_another_directory(offline: Offline) -> None:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as parent:
        system = System(Path(parent) / "s p a c e")
        command = [sys.executable, "-m", "agentproxy.admin", "dev", "start", "s p a c e"]
        environment = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        done = subprocess.run(
            [*command, f"--key=modern={offline.exports['modern']}"],
            cwd=parent, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        try:
            assert done.returncode == 0, done.stderr
            assert system.sign().returncode == 0
        finally:
            system.stop()


def test_a_path_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    result = System(tmp_path / ("x" * 120)).dev("start")
    assert result.status == 1
    assert "bytes too long for the sockets in it" in result.errors
    assert "Traceback" not in result.errors
