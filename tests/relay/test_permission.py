"""The oracle's word on falling back outlives connections and restarts."""

import errno
import functools
import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.protocol.codes import RejectionCode
from agentproxy.runtime.files import write_atomically
from relay import permission as permission_module
from relay.errors import RejectedError
from relay.permission import Permission


def again(path: Path) -> Permission:
    permission = Permission(path)
    permission.load()
    return permission


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fallback" / "permission.json"


async def test_nothing_heard_means_no(path: Path) -> None:
    assert not again(path).verdict.allowed
    permission = Permission(path)
    await permission.told("node-a", allowed=False)
    assert not permission.verdict.allowed
    assert permission.verdict.by == "node-a"
    assert not path.exists()


async def test_yes_and_no_are_kept_over_a_restart(path: Path) -> None:
    permission = again(path)
    await permission.told("node-a", allowed=True)
    assert again(path).verdict.allowed
    await permission.told("node-b", allowed=False)
    kept = again(path).verdict
    assert (kept.allowed, kept.by) == (False, "node-b")


async def test_a_yes_that_is_still_being_written_does_not_outlive_the_no_behind_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    permission = Permission(path)
    begun, go = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def slow(target: Path, data: bytes, mode: int) -> None:
        if b"true" in data:
            token.run_sync_soon(begun.set)
            assert go.wait(10)
        write_atomically(target, data, mode)

    monkeypatch.setattr(permission_module, "write_atomically", slow)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(permission.told, "node-a", allowed=True))
            await begun.wait()
            nursery.start_soon(permission.rejected, RejectedError(RejectionCode.RUNNER_DISABLED))
            await trio.testing.wait_all_tasks_blocked(0.2)
            go.set()
    assert not permission.verdict.allowed
    assert not again(path).verdict.allowed


@pytest.mark.parametrize(
    "code", [RejectionCode.TOKEN_REVOKED, RejectionCode.RUNNER_DISABLED, RejectionCode.RUNNER_UNKNOWN]
)
async def test_a_runner_that_is_turned_away_may_no_longer_fall_back(path: Path, code: RejectionCode) -> None:
    permission = again(path)
    await permission.told("node-a", allowed=True)
    await permission.rejected(RejectedError(code))
    assert permission.answered is not None
    kept = again(path).verdict
    assert not kept.allowed
    assert kept.taken_back == str(RejectedError(code))
    await permission.told("node-a", allowed=False)
    assert permission.verdict.taken_back == ""


@pytest.mark.parametrize("code", [RejectionCode.NOT_OPERATIONAL, RejectionCode.CERTIFICATE_EXPIRED])
async def test_an_outage_or_an_expired_certificate_takes_nothing_back(path: Path, code: RejectionCode) -> None:
    permission = again(path)
    await permission.told("node-a", allowed=True)
    await permission.rejected(RejectedError(code))
    assert again(path).verdict.allowed
    assert (permission.answered is None) == (code is RejectionCode.NOT_OPERATIONAL)


async def test_a_no_that_cannot_be_written_is_kept_all_the_same(path: Path) -> None:
    permission = again(path)
    await permission.told("node-a", allowed=True)
    # A directory in the place of the temporary file's target stands for a disk that takes nothing.
    path.unlink()
    path.mkdir()
    (path / "x").touch()
    await permission.told("node-a", allowed=False)
    assert not permission.verdict.allowed


@pytest.mark.parametrize("content", [b"", b"{}x", b'{"allowed": "yes"}', b'{"allowed": true, "more": 1}', b"[" * 2000])
def test_a_damaged_file_is_no_permission(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert not again(path).verdict.allowed


@pytest.mark.parametrize("allowed", [True, False])
async def test_what_could_not_be_kept_is_kept_when_it_is_heard_again(
    path: Path, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    permission = Permission(path)
    await permission.told("node-a", allowed=not allowed)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as broken:
        broken.setattr(permission_module, "write_atomically", full)
        broken.setattr(Path, "unlink", read_only)
        await permission.told("node-a", allowed=allowed)
        assert permission.verdict.allowed is allowed
        assert again(path).verdict.allowed is not allowed
    await permission.told("node-a", allowed=allowed)
    assert again(path).verdict.allowed is allowed


async def test_a_permission_that_could_not_be_taken_back_on_the_disk_is_at_the_next_rejection(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    permission = Permission(path)
    await permission.told("node-a", allowed=True)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", read_only)
        await permission.rejected(RejectedError(RejectionCode.RUNNER_DISABLED))
        assert again(path).verdict.allowed
    await permission.rejected(RejectedError(RejectionCode.RUNNER_DISABLED))
    assert not again(path).verdict.allowed
