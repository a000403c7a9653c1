import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.lockfile import held

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
