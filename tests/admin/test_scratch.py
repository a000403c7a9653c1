"""A scratch home is gone with its agent, also when somebody does not want to wait for that."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentproxy.admin import scratch
from agentproxy.admin.dev.processes import find
from agentproxy.admin.scratch import scratch_home
from tests.admin.exports import PASSPHRASE, Exports
from tests.admin.shell import blind_oracle

# It tells of each call of `gpg` and `gpgconf` that matters, and goes on when it is told to.
_SLOW = """#!/bin/sh
case "$*" in
*--detach-sign*) {program} "$@"; echo signed >{place}/told; read -r _ <{place}/go; exit;;
*--kill*) echo stopping >{place}/told; read -r _ <{place}/go;;
esac
exec {program} "$@"
"""
_IMPORT = (
    "import pathlib, sys\nfrom agentproxy.admin import cli, scratch\n"
    "scratch._MEMORY = pathlib.Path(sys.argv[1])\ncli.main(['key', 'import', *sys.argv[2:]])\n"
)


@pytest.fixture(name="place")
def made_place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as name:
        place = Path(name)
        for directory in ("memory", "bin"):
            (place / directory).mkdir()
        for fifo in ("told", "go"):
            os.mkfifo(place / fifo)
        for program in ("gpg", "gpgconf"):
            (place / "bin" / program).write_text(_SLOW.format(program=shutil.which(program), place=place))
            (place / "bin" / program).chmod(0o755)
        (place / "passphrase").write_text(f"{PASSPHRASE}\n")
        (place / "passphrase").chmod(0o600)
        assert blind_oracle("init", place / "state").status == 0
        yield place


def _import(place: Path, exports: Exports, *before: str) -> subprocess.Popen[bytes]:
    words = [*before, sys.executable, "-c", _IMPORT, place / "memory", exports.subkeys["locked"], "--name", "locked"]
    words += ["--passphrase-file", place / "passphrase", "--config", place / "state/oracle.yaml"]
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    return subprocess.Popen(
        words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(
    ("first", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["Ctrl-C twice", "SIGTERM, then Ctrl-C", "the terminal goes away, then Ctrl-C"],
)
def test_a_second_signal_leaves_neither_an_agent_nor_a_secret(
    place: Path, exports: Exports, first: signal.Signals, status: int
) -> None:
    with _import(place, exports) as process:
        assert (place / "told").read_text() == "signed\n"  # so the agent runs, and has unlocked the key
        assert len(list((place / "memory").iterdir())) == 1
        os.killpg(process.pid, first)
        assert (place / "told").read_text() == "stopping\n"
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
        (place / "go").write_text("go\n")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert list((place / "memory").iterdir()) == []
    assert list(find(at=place / "memory")) == []


def test_with_nohup_an_import_does_not_mind_that_the_terminal_goes_away(place: Path, exports: Exports) -> None:
    with _import(place, exports, "nohup") as process:
        assert (place / "told").read_text() == "signed\n"
        os.killpg(process.pid, signal.SIGHUP)
        (place / "go").write_text("go\n")
        assert (place / "told").read_text() == "stopping\n"
        (place / "go").write_text("go\n")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert list((place / "memory").iterdir()) == []


def test_a_signal_that_comes_while_the_home_is_removed_counts_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_MEMORY", tmp_path)
    stop = scratch._stop_agent

    def stop_meanwhile(home: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        stop(home)

    monkeypatch.setattr(scratch, "_stop_agent", stop_meanwhile)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with scratch_home():
            pass
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before
