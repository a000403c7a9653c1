"""The audit log's disk is full or read-only: nothing is signed, everybody says why, and it goes on by itself."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.offline import Offline
from tests.end_to_end.packages import build_packages, is_signed, rpmsign
from tests.end_to_end.place import SECONDS, System, is_traced, system_with, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *map(str, words)], check=True, timeout=20)


@pytest.fixture(name="system", scope="module")
def system_on_a_small_disk(offline: Offline) -> Iterator[System]:
    """A dev system whose audit log lies on a disk of its own."""
    with system_with({"modern": offline.exports["modern"]}) as system:
        system.stop()
        kept = [(file.name, file.read_bytes()) for file in system.audit.iterdir()]
        mount("-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", system.audit)
        try:
            for name, content in kept:
                (system.audit / name).write_bytes(content)
            system.start()
            yield system
            system.stop()
        finally:
            subprocess.run(["umount", "-l", system.audit], check=True, timeout=20)


@pytest.fixture(name="package", scope="module")
def one_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_packages(tmp_path_factory.mktemp("rpm"), ["hello"])[0]


@contextmanager
def full(system: System) -> Iterator[str]:
    filler = fill(system.audit)
    # The last block of the log itself has some room: a few records still fit.
    until(lambda: system.sign().returncode != 0, "the disk is full")
    yield "No space left on device"
    filler.unlink()


@contextmanager
def read_only(system: System) -> Iterator[str]:
    """EROFS, as a kernel answers that remounted a failing disk; mount(8) cannot do that under open files."""
    pid = system.pid("signer")
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=pwrite64:error=EROFS", "-p", str(pid)]
    )
    try:
        until(lambda: is_traced(pid, tracer.pid), "the tracer is there")
        yield "Read-only file system"
    finally:
        tracer.terminate()
        tracer.wait(SECONDS)


def fill(directory: Path) -> Path:
    """Take all space that is left, to the last byte."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


@pytest.mark.parametrize("trouble", [full, read_only])
def test_nothing_is_signed_without_a_record_and_afterwards_it_goes_on_by_itself(
    system: System, offline: Offline, package: Path, trouble: Callable[[System], AbstractContextManager[str]]
) -> None:
    pids = [system.pid(part) for part in ("oracle", "signer", "relay")]
    with trouble(system) as reason:
        before, content = len(system.signed()), package.read_bytes()
        gpg = system.sign()
        assert gpg.returncode == 2
        assert "Not operational" in gpg.stderr
        assert gpg.stdout == ""
        rpm = rpmsign(system, "modern", package)
        assert rpm.returncode != 0
        assert package.read_bytes() == content
        assert len(system.signed()) == before
        assert_everybody_says_why(system, reason)

    assert system.sign().returncode == 0
    assert rpmsign(system, "modern", package).returncode == 0
    assert is_signed(system, offline, "modern", package, package.parent / "rpmdb")
    system.assert_log_is_whole()
    assert len(system.signed()) >= before + 2
    assert [system.pid(part) for part in ("oracle", "signer", "relay")] == pids


def assert_everybody_says_why(system: System, reason: str) -> None:
    """The relay's status and log, and the oracle's log, name the same request; the oracle knows the disk's reason."""
    last = system.last()[0]
    assert last["outcome"] == "failed"
    assert last["code"] == "not_operational"
    assert last["gpg_says"] == "Not operational"
    assert "audit log may not be writable" in str(last["reason"])
    assert f"request={last['id']}" in system.log("relay")
    ours = re.findall(rf"not signed, .* request={last['id']} .*reason=(.*)", system.log("oracle"))
    assert ours
    assert all(reason in line for line in ours), ours


def test_a_signer_whose_disk_is_read_only_does_not_start_and_says_so(system: System) -> None:
    system.stop("oracle")
    mount("-o", "remount,ro", system.audit)
    result = system.dev("start", "oracle")
    mount("-o", "remount,rw", system.audit)
    assert result.status == 1
    assert "Read-only file system" in result.errors
    system.start("oracle")
    assert system.sign().returncode == 0
    system.assert_log_is_whole()
