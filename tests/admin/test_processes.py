import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentproxy.admin.dev.processes import Process, end, find, recall, remember, spawn
from agentproxy.admin.readiness import ReadySocket
from agentproxy.protocol.errors import ConfigError

SLEEP = "import signal, sys, time\nprint('started', flush=True)\ntime.sleep(600)"
STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen({0!r}, 'w').close()\ntime.sleep(600)"
)
READY = (
    "import sys\nfrom agentproxy.runtime.systemd import notify\n"
    "notify(STATUS='not yet')\nnotify(READY='1')\nimport time\ntime.sleep(600)"
)


@pytest.fixture(name="started")
def some_processes(tmp_path: Path) -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        end(process, 5)
        os.waitpid(process.pid, 0)


def start(started: list[Process], tmp_path: Path, script: str, *words: str) -> Process:
    process = spawn([sys.executable, "-c", script, *words], os.environ, tmp_path / "log")
    started.append(process)
    return process


def test_a_process_is_recalled_while_it_runs_and_not_afterwards(started: list[Process], tmp_path: Path) -> None:
    process = start(started, tmp_path, SLEEP)
    remember(tmp_path / "pid", process)
    assert recall(tmp_path / "pid") == process
    end(process, 5)
    assert recall(tmp_path / "pid") is None


def test_a_process_runs_in_a_session_of_its_own_and_writes_to_its_log(started: list[Process], tmp_path: Path) -> None:
    process = start(started, tmp_path, "import os\nprint(os.getsid(0) == os.getpid(), os.read(0, 1), flush=True)")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (tmp_path / "log").read_text() == "True b''\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "another"}])
def test_a_later_process_with_the_same_pid_is_never_touched(
    change: dict[str, int | str], started: list[Process], tmp_path: Path
) -> None:
    bystander = start(started, tmp_path, SLEEP)
    earlier = replace(bystander, **change)
    remember(tmp_path / "pid", earlier)
    assert recall(tmp_path / "pid") is None
    end(earlier, 5)
    assert bystander.is_running


@pytest.mark.parametrize("content", ["", "5", "[]", "{}", '{"pid": 1, "started": 0, "boot": ""}', '{"pid": "x"}', "x"])
def test_a_pid_file_without_sense_names_nobody(content: str, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(content)
    assert recall(tmp_path / "pid") is None
    assert recall(tmp_path / "gone") is None


def test_a_process_that_does_not_listen_is_killed(started: list[Process], tmp_path: Path) -> None:
    process = start(started, tmp_path, STUBBORN.format(str(tmp_path / "ready")))
    while not (tmp_path / "ready").exists():
        assert process.is_running
    end(process, 0.05)
    assert not process.is_running


def test_ending_twice_is_no_error(started: list[Process], tmp_path: Path) -> None:
    process = start(started, tmp_path, SLEEP)
    end(process, 5)
    end(process, 5)
    assert not process.is_running


def test_processes_are_found_by_their_arguments_and_the_place_below_which_they_work(
    started: list[Process], tmp_path: Path
) -> None:
    here = start(started, tmp_path, SLEEP, "serve", str(tmp_path / "a" / "file"))
    start(started, tmp_path, SLEEP, "serve", str(tmp_path / "ab"))
    start(started, tmp_path, SLEEP, "other", str(tmp_path / "a"))
    assert list(find("serve", at=tmp_path / "a")) == [here]
    assert list(find("serve", at=tmp_path / "a" / "file")) == [here]
    assert list(find("serve", at=tmp_path / "c")) == []


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone: cannot be started: No such file"):
        spawn([str(tmp_path / "gone")], os.environ, tmp_path / "log")


def test_readiness_is_the_childs_own_word(started: list[Process], tmp_path: Path) -> None:
    with ReadySocket() as ready:
        process = spawn([sys.executable, "-c", READY], ready.environment(), tmp_path / "log")
        started.append(process)
        assert ready.wait(process.pid, 30)


def test_a_child_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    with ReadySocket() as ready, subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        assert not ready.wait(process.pid, 30)


def test_a_child_that_says_nothing_is_waited_for_no_longer_than_asked(started: list[Process], tmp_path: Path) -> None:
    process = start(started, tmp_path, SLEEP)
    with ReadySocket() as ready:
        assert not ready.wait(process.pid, 0.05)
    assert process.is_running
    os.kill(process.pid, signal.SIGKILL)


def test_what_systemd_told_us_is_not_for_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    with ReadySocket() as ready:
        environment = ready.environment()
    assert "LISTEN_FDS" not in environment
    assert environment["NOTIFY_SOCKET"] != "/run/systemd/notify"
