"""Commands that change one file at the same time: none takes back what another has written."""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agentproxy.admin import changing as changing_module
from agentproxy.admin import templates
from agentproxy.admin.changing import changing
from agentproxy.admin.keyentries import remove_entry, write_entry
from agentproxy.admin.policyfile import add, key_addition, runner_addition
from agentproxy.oracle.policy import Policy
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.runtime.config import load
from agentproxy.signer import keysfile
from tests.admin.test_keylisting import MODERN

MANY = 12  # more than processors, so that they meet


def at_once(work: Callable[[int], object]) -> None:
    """Call `work` with 0 to MANY - 1 in as many threads, which begin together."""
    together = threading.Barrier(MANY)

    def run(number: int) -> None:
        together.wait(20)
        work(number)

    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(run, range(MANY)))


def entry(number: int) -> keysfile.KeyEntry:
    return replace(MODERN, fingerprint=Fingerprint(bytes([number]) * 20), keygrip=Keygrip(bytes([number]) * 20))


def test_keys_that_are_added_at_once_are_all_there_and_so_are_removed_ones_gone(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    at_once(lambda number: write_entry(path, f"k{number}", entry(number)))
    assert set(keysfile.load(path).keys) == {f"k{number}" for number in range(MANY)}
    at_once(lambda number: remove_entry(path, f"k{number}"))
    assert keysfile.load(path).keys == {}
    assert [file.name for file in tmp_path.iterdir()] == ["keys.yaml"]


def test_what_is_added_to_a_policy_at_once_is_all_there(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(templates.POLICY)
    at_once(lambda number: add(path, key_addition(f"k{number}", Fingerprint(bytes([number]) * 20), "modern")))
    at_once(lambda number: add(path, runner_addition(f"r{number}", [f"k{number}"])))
    policy = load(path, Policy)
    assert set(policy.keys) == {f"k{number}" for number in range(MANY)}
    assert set(policy.runners) == {f"r{number}" for number in range(MANY)}
    assert [file.name for file in tmp_path.iterdir()] == ["policy.yaml"]


@contextmanager
def short_wait(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(changing_module, "WAIT_SECONDS", 0.1)
        yield


def test_a_command_that_takes_long_is_told_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.yaml"
    with short_wait(monkeypatch), changing(path), pytest.raises(ConfigError, match=r"another command .* for 0\.1 s"):
        with changing(path):
            raise AssertionError
    with changing(path):
        pass


def test_what_a_killed_command_left_keeps_nobody_away(tmp_path: Path) -> None:
    (tmp_path / ".policy.yaml.lock").touch(0o600)
    with changing(tmp_path / "policy.yaml"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_lies_beside_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "policy.yaml").symlink_to("etc/policy.yaml")
    with changing(tmp_path / "policy.yaml"):
        assert [file.name for file in (tmp_path / "etc").iterdir()] == [".policy.yaml.lock"]


@pytest.mark.parametrize("obstacle", ["link", "fifo", "directory"])
def test_a_lock_that_is_something_else_is_refused_and_stays(
    tmp_path: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, victim = tmp_path / ".policy.yaml.lock", tmp_path / "victim"
    victim.write_text("mine")
    make: dict[str, Callable[[], None]] = {
        "link": lambda: lock.symlink_to(victim),
        "fifo": lambda: os.mkfifo(lock),
        "directory": lock.mkdir,
    }
    make[obstacle]()
    with short_wait(monkeypatch), pytest.raises(ConfigError), changing(tmp_path / "policy.yaml"):
        raise AssertionError
    assert victim.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_lock_of_roots_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with changing(tmp_path / "keys.yaml"):
        status = (tmp_path / ".keys.yaml.lock").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 12345, 0o600)


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"policy\.yaml: cannot be changed: .* Not a directory"):
        with changing(tmp_path / "file/policy.yaml"):
            raise AssertionError


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_who_cannot_change_a_policy_hears_that_an_entry_is_there_or_why_it_is_not(short: Path) -> None:
    path = short / "policy.yaml"
    path.write_text(templates.POLICY)
    short.chmod(0o755)
    key = key_addition("modern", Fingerprint(bytes(20)), "modern")
    assert add(path, key)
    os.seteuid(65534)
    try:
        assert not add(path, key)
        with pytest.raises(ConfigError, match=r"cannot be changed: .*Permission denied"):
            add(path, runner_addition("r", ["modern"]))
    finally:
        os.seteuid(0)


def test_a_policy_that_is_read_only_in_a_directory_of_ours_is_changed_and_stays_read_only(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(templates.POLICY)
    path.chmod(0o444)
    assert add(path, key_addition("modern", Fingerprint(bytes(20)), "modern"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
