import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.lockfile import held, signal_holder

HOLD = (
    "import sys, pathlib; from agentproxy.runtime.lockfile import held\n"
    "with held(pathlib.Path(sys.argv[1]), 'oracle'): print('held', flush=True); sys.stdin.read()"
)


def test_one_holder_at_a_time_and_the_next_one_after_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with held(lock, "oracle"):
        with pytest.raises(ConfigError, match=f"another oracle works here, pid {os.getpid()}"):
            with held(lock, "oracle"):
                pass
    with held(lock, "oracle"):
        assert lock.read_text() == f"{os.getpid()}\n"


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"pid {holder.pid}"):
            with held(lock, "oracle"):
                pass
        holder.kill()
        holder.wait(10)
    with held(lock, "oracle"):
        pass


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match="cannot be opened"):
        with held(tmp_path / "lock", "oracle"):
            pass
    assert not (tmp_path / "victim").exists()


def test_only_the_holder_is_signalled(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with pytest.raises(ConfigError, match="no oracle runs here"):
        signal_holder(lock, signal.SIGTERM, "oracle")
    with subprocess.Popen(["sleep", "60"]) as bystander:
        lock.write_text(f"{bystander.pid}\n")  # its pid was the last holder's, before
        with pytest.raises(ConfigError, match="no oracle runs here"):
            signal_holder(lock, signal.SIGTERM, "oracle")
        assert bystander.poll() is None
        bystander.kill()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert signal_holder(lock, signal.SIGTERM, "oracle") == holder.pid
        assert holder.wait(10) == -signal.SIGTERM
    with held(lock, "oracle"):  # looking did not keep it
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose")
def test_the_files_owner_cannot_have_root_signal_a_process_of_somebody_else(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with held(lock, "oracle"), subprocess.Popen(["sleep", "60"]) as bystander:
        lock.write_text(f"{bystander.pid}\n")
        os.chown(lock, 65534, 65534)
        with pytest.raises(ConfigError, match="is no process of the file's owner"):
            signal_holder(lock, signal.SIGTERM, "oracle")
        assert bystander.poll() is None
        bystander.kill()
