"""Root works in a user's home as that user, and not for ever."""

import os
import signal
import tempfile
import threading
from functools import partial
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from relay import owner
from relay.owner import as_owner_of
from tests.end_to_end.place import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")

SOMEBODY = 12345


@pytest.fixture(name="home")
def somebodys_home(tmp_path: Path) -> Path:
    # Root works below directories only that others cannot write; pytest's are its own.
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, SOMEBODY, SOMEBODY)
    return home


def test_what_the_owner_did_comes_back_and_what_went_wrong_too(home: Path) -> None:
    assert as_owner_of(home, lambda: f"uid {os.geteuid()}, groups {os.getgroups()}") == (
        f"uid {SOMEBODY}, groups [{SOMEBODY}]"
    )

    def fail() -> str:
        raise ConfigError("a reason")

    with pytest.raises(ConfigError, match="a reason"):
        as_owner_of(home, fail)


def test_temporary_files_of_the_owner_do_not_go_where_only_root_may_write(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(private))  # as root's own work before has found it

    def write() -> str:
        with tempfile.NamedTemporaryFile() as file:
            return str(Path(file.name).parent)

    assert as_owner_of(home, write) != str(private)


def test_work_that_does_not_end_is_ended_with_all_that_it_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "TASK_SECONDS", 0.5)
    reading, writing = os.pipe()

    with pytest.raises(ConfigError, match="took more than"):
        as_owner_of(home, partial(_hang, writing))
    os.close(writing)
    with os.fdopen(reading) as told:
        _have_ended(told.read())


def _hang(writing: int) -> str:
    """Start another process, tell the pids of both, and never end."""
    child = os.fork()
    if child:
        os.write(writing, f"{child} {os.getpid()}".encode())
    signal.pause()
    return ""


def _have_ended(pids: str) -> None:
    for pid in map(int, pids.split()):
        until(partial(_is_gone, pid), "what it started has ended")


def _is_gone(pid: int) -> bool:
    """Whether there is no such process, or only a zombie that init has not looked at yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_ctrl_c_ends_the_child_with_all_that_it_started(home: Path) -> None:
    reading, writing = os.pipe()

    def interrupt() -> None:
        told.append(os.read(reading, 64).decode())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    told: list[str] = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        as_owner_of(home, partial(_hang, writing))
    thread.join()
    os.close(reading)
    os.close(writing)
    _have_ended(told[0])


def test_a_child_that_has_to_end_may_take_away_what_it_has_half_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "TASK_SECONDS", 0.5)
    reading, writing = os.pipe()

    def write_without_end() -> str:
        try:
            signal.pause()
        finally:
            os.write(writing, b"taken away")
        return ""

    with pytest.raises(ConfigError, match="took more than"):
        as_owner_of(home, write_without_end)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.read() == "taken away"


def test_a_child_that_does_not_want_to_end_is_killed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "TASK_SECONDS", 0.5)
    monkeypatch.setattr(owner, "END_SECONDS", 0.5)

    def stay() -> str:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()

    with pytest.raises(ConfigError, match="took more than"):
        as_owner_of(home, stay)


def test_an_error_comes_back_with_its_hint_and_with_bytes_that_are_no_text(home: Path) -> None:
    def fail() -> str:
        raise ConfigError("/srv/\udcff: a reason", "a hint")

    with pytest.raises(ConfigError, match="/srv/\udcff: a reason") as caught:
        as_owner_of(home, fail)
    assert caught.value.hint == "a hint"


def test_a_child_that_cannot_tell_what_came_of_it_ends_all_the_same(home: Path) -> None:
    parent = os.getpid()
    with pytest.raises(ConfigError, match="ended with exit status 1"):
        as_owner_of(home, lambda: "\ud800")  # no byte of a file's name
    assert os.getpid() == parent  # a child that ran on would be a second pytest, as root's code


def test_a_child_that_was_killed_is_told_with_its_signal(home: Path) -> None:
    def end() -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    with pytest.raises(ConfigError, match="was ended by signal 9"):
        as_owner_of(home, end)
