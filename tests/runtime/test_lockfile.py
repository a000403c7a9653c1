import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
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


def test_whoever_has_patience_comes_next(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        end = threading.Timer(0.2, holder.stdin.close)
        end.start()
        with held(lock, "oracle", patience_seconds=60):
            assert lock.read_text() == f"{os.getpid()}\n"
        end.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_has_room_for_a_lock_but_not_for_a_pid(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True, timeout=20)
    try:
        with suppress(OSError), (tmp_path / "fill").open("wb", buffering=0) as fill:
            while True:
                fill.write(bytes(4096))
        with held(tmp_path / "lock", "oracle"):
            with pytest.raises(ConfigError, match="another oracle works here, pid unknown"):
                with held(tmp_path / "lock", "oracle"):
                    pass
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True, timeout=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_locks_its_daemon_can_lock_too(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 12_345)
    with held(tmp_path / "lock", "oracle"):
        status = (tmp_path / "lock").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12_345, 12_345, 0o600)
