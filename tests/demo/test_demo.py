"""The demo as somebody runs it who has just cloned the project."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentproxy.admin.dev.processes import find

ROOT = Path(__file__).parents[2]
SECONDS = 180  # a bound for a busy machine; alone it takes less than 30
LEAVE_SECONDS = 60


@pytest.fixture(name="scratch")
def temporary_directory(tmp_path: Path) -> Iterator[Path]:
    """Where the demo makes its directory, so that we see what it leaves; short, because sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as name:
        yield Path(name)


def start(scratch: Path, output: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "demo"],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def assert_nothing_is_left(scratch: Path) -> None:
    assert list(scratch.iterdir()) == []
    assert list(find(at=scratch)) == []


def test_the_whole_demo_keeps_its_promises_and_leaves_nothing(scratch: Path, tmp_path: Path) -> None:
    with start(scratch, tmp_path / "output") as demo:
        status = demo.wait(SECONDS)
    shown = (tmp_path / "output").read_text()
    assert status == 0, shown
    for line in (
        "digests signatures OK",
        "gpg: Good signature",
        "hello, signed world",
        "whole: ",
        "gpg: signing failed: Network error",
        "the package is unchanged",
    ):
        assert line in shown
    for command in ("blind-oracle dev start", "rpmbuild", "rpmsign", "createrepo_c", "gpg ", "rpmkeys", "dnf"):
        assert f"\n$ {command}" in shown
    assert_nothing_is_left(scratch)


@pytest.mark.parametrize(
    ("number", "moment", "to_all"),  # a terminal's Ctrl-C goes to the whole process group, `kill` to one process
    [
        (signal.SIGINT, "--quick-gen-key", True),
        (signal.SIGTERM, "--quick-gen-key", False),
        (signal.SIGINT, "$ blind-oracle dev start", True),
        (signal.SIGINT, "$ blind-oracle dev start", False),
        (signal.SIGTERM, "$ blind-oracle dev start", False),
        (signal.SIGHUP, "$ rpmbuild", True),
    ],
)
def test_interrupted_at_any_moment_it_leaves_nothing(
    number: signal.Signals, moment: str, to_all: bool, scratch: Path, tmp_path: Path
) -> None:
    with start(scratch, tmp_path / "output") as demo:
        _wait_until_shown(demo, tmp_path / "output", moment)
        if to_all:
            os.killpg(demo.pid, number)
        else:
            demo.send_signal(number)
        assert demo.wait(LEAVE_SECONDS) == 128 + number, (tmp_path / "output").read_text()
    assert_nothing_is_left(scratch)


def _wait_until_shown(demo: subprocess.Popen[bytes], output: Path, text: str) -> None:
    deadline = time.monotonic() + SECONDS
    while text not in output.read_text():
        assert demo.poll() is None, output.read_text()
        assert time.monotonic() < deadline
