import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.peer import Peer
from agentproxy.runtime.unixsocket import MAX_PATH, bind, check_inherited, peer_of


@pytest.fixture(name="directory")
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as name:
        yield Path(name)


async def test_the_peer_is_who_the_kernel_says(directory: Path) -> None:
    with trio.fail_after(5):
        async with bind(directory / "s", 0o600) as listener:
            client = await trio.open_unix_socket(str(directory / "s"))
            served = await listener.accept()
            async with client, served:
                groups = tuple(sorted({os.getegid(), *os.getgroups()}))
                assert peer_of(served) == Peer(os.getpid(), os.geteuid(), os.getegid(), groups)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_the_socket_has_the_mode_that_was_asked_for_whatever_the_umask(directory: Path, mode: int) -> None:
    before = os.umask(0)
    try:
        async with bind(directory / "s", mode):
            assert stat.S_IMODE((directory / "s").stat().st_mode) == mode
    finally:
        assert os.umask(before) == 0


async def test_a_second_daemon_is_refused_and_the_first_keeps_its_socket(directory: Path) -> None:
    async with bind(directory / "s", 0o600) as listener:
        with pytest.raises(ConfigError, match="another process listens here"):
            bind(directory / "s", 0o600)
        with trio.fail_after(5):
            async with await trio.open_unix_socket(str(directory / "s")), await listener.accept():
                pass


async def test_a_socket_that_a_killed_daemon_left_is_replaced(directory: Path) -> None:
    left = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(directory / 's')!r}); s.listen()"
    await trio.run_process([sys.executable, "-c", left])
    assert stat.S_ISSOCK((directory / "s").stat().st_mode)
    async with bind(directory / "s", 0o600):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(directory / "s"))


def test_a_symbolic_link_and_a_file_in_the_sockets_place_are_refused_and_stay(directory: Path) -> None:
    (directory / "target").write_text("kept")
    (directory / "s").symlink_to(directory / "target")
    with pytest.raises(ConfigError, match="symbolic link"):
        bind(directory / "s", 0o600)
    with pytest.raises(ConfigError, match="another kind of file"):
        bind(directory / "target", 0o600)
    assert (directory / "s").read_text() == "kept"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_directory_that_others_can_write_is_refused(directory: Path, mode: int) -> None:
    open_to_others = directory / "d"
    open_to_others.mkdir()
    open_to_others.chmod(mode)
    with pytest.raises(ConfigError, match="others can write here"):
        bind(open_to_others / "s", 0o600)


def test_a_directory_above_that_others_can_write_is_refused(directory: Path) -> None:
    above = directory / "above"
    (above / "d").mkdir(parents=True, mode=0o755)
    above.chmod(0o757)
    with pytest.raises(ConfigError, match=r"others can write .*/above above it"):
        bind(above / "d" / "s", 0o600)
    (directory / "way").symlink_to(above / "d")
    with pytest.raises(ConfigError, match=r"others can write .*/above above it"):
        bind(directory / "way" / "s", 0o600)


async def test_a_sticky_directory_above_is_good_enough(directory: Path) -> None:
    above = directory / "above"
    (above / "d").mkdir(parents=True, mode=0o755)
    above.chmod(0o1777)
    async with bind(above / "d" / "s", 0o600):
        assert (above / "d" / "s").is_socket()


async def test_an_inherited_socket_is_looked_at_as_one_of_our_own(directory: Path) -> None:
    async with bind(directory / "s", 0o600) as listener:
        check_inherited(listener, directory / "s")
        (directory / "way").symlink_to(directory)
        check_inherited(listener, directory / "way" / ".." / directory.name / "s")
        with pytest.raises(ConfigError, match="systemd passed the socket"):
            check_inherited(listener, directory / "elsewhere")
        directory.chmod(0o777)
        with pytest.raises(ConfigError, match="others can write here"):
            check_inherited(listener, directory / "s")
        directory.chmod(0o700)
        (directory / "s").unlink()
        with pytest.raises(ConfigError, match="not there any more"):
            check_inherited(listener, directory / "s")
        (directory / "s").write_text("")
        with pytest.raises(ConfigError, match="found another kind of file"):
            check_inherited(listener, directory / "s")


def test_a_missing_directory_and_a_long_path_are_refused(directory: Path) -> None:
    with pytest.raises(ConfigError, match="cannot hold a socket: No such file"):
        bind(directory / "gone" / "s", 0o600)
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        bind(directory / ("x" * MAX_PATH), 0o600)


async def test_the_longest_path_works(directory: Path) -> None:
    path = directory / ("x" * (MAX_PATH - len(str(directory)) - 1))
    async with bind(path, 0o600):
        assert len(str(path)) == MAX_PATH


def test_a_directory_in_the_locks_place_is_named(directory: Path) -> None:
    (directory / ".s.lock").mkdir()
    with pytest.raises(ConfigError, match=r"\.s\.lock: cannot be locked: Is a directory"):
        bind(directory / "s", 0o600)
