"""Looking at the registry: what changed is seen at the next look, and what did not is left alone."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio.testing

from agentproxy.oracle.changes import RunnerAdded
from agentproxy.oracle.database import SqliteFile
from agentproxy.oracle.registry import Registry
from agentproxy.oracle.registryview import OUT_OF_REACH_SECONDS, REMIND_SECONDS, UNREAD_SECONDS, RegistryView
from tests.oracle.test_registry import FakeJournal

LONG_AGO = 1_000_000_000  # seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    made = Registry.create(SqliteFile(path))
    yield made
    made.close()


@pytest.fixture
def view(registry: Registry) -> RegistryView:
    return RegistryView(registry, lambda: None)


def is_opened_meanwhile(path: Path) -> bool:
    """Whether the registry was opened since the last call: SQLite makes two files beside it for that."""
    was_opened = path.parent.stat().st_mtime != LONG_AGO
    os.utime(path.parent, (LONG_AGO, LONG_AGO))
    return was_opened


async def test_what_nobody_writes_is_read_once_and_then_rarely(
    view: RegistryView, path: Path, mock_clock: trio.testing.MockClock
) -> None:
    os.utime(path, (LONG_AGO, LONG_AGO))
    await view.refresh()
    assert is_opened_meanwhile(path)
    for _ in range(3):
        mock_clock.jump(UNREAD_SECONDS / 4)
        await view.refresh()
    assert not is_opened_meanwhile(path)
    mock_clock.jump(UNREAD_SECONDS / 4)
    await view.refresh()
    assert is_opened_meanwhile(path)


async def test_what_was_not_read_since_it_shows_no_change_is_a_fresh_picture(
    view: RegistryView, path: Path, mock_clock: trio.testing.MockClock
) -> None:
    view.is_replayed = True
    os.utime(path, (LONG_AGO, LONG_AGO))
    await view.refresh()
    mock_clock.jump(UNREAD_SECONDS * 0.9)
    await view.refresh()
    mock_clock.jump(OUT_OF_REACH_SECONDS * 0.9)
    assert view.is_fresh
    mock_clock.jump(OUT_OF_REACH_SECONDS * 0.2)
    assert not view.is_fresh


async def test_what_was_written_just_now_is_read_again_since_its_time_may_stand_still(
    view: RegistryView, path: Path, mock_clock: trio.testing.MockClock
) -> None:
    await view.refresh()
    assert is_opened_meanwhile(path)
    mock_clock.jump(0.25)
    await view.refresh()
    assert is_opened_meanwhile(path)


@pytest.mark.parametrize("is_held_open", [False, True])
async def test_a_change_is_seen_at_the_next_look(
    view: RegistryView, registry: Registry, path: Path, mock_clock: trio.testing.MockClock, *, is_held_open: bool
) -> None:
    """Also while it stands in the log beside the file alone, or when somebody has put the file's time back."""
    held = sqlite3.connect(path)
    try:
        if is_held_open:
            held.execute("BEGIN")
            held.execute("SELECT value FROM generation").fetchall()  # what it sees cannot leave the log
        os.utime(path, (LONG_AGO, LONG_AGO))
        await view.refresh()
        assert "a" not in view.credentials.runners
        registry.change(FakeJournal(), RunnerAdded("a"))
        if not is_held_open:
            os.utime(path, (LONG_AGO, LONG_AGO))
        mock_clock.jump(0.25)
        await view.refresh()
        assert "a" in view.credentials.runners
    finally:
        held.close()


async def test_a_registry_that_is_gone_is_noticed_at_the_next_look(
    view: RegistryView, path: Path, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    view.is_replayed = True
    os.utime(path, (LONG_AGO, LONG_AGO))
    await view.refresh()
    path.rename(path.with_name("elsewhere"))
    mock_clock.jump(1)
    await view.refresh()
    assert "registry out of reach" in caplog.text
    assert "No such file or directory" in caplog.text
    mock_clock.jump(OUT_OF_REACH_SECONDS)
    assert not view.is_fresh


async def test_a_change_that_cannot_be_read_whole_makes_the_picture_old(
    view: RegistryView, registry: Registry, path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """It may be a revocation; that the file is there and nobody writes it any more says nothing about that."""
    view.is_replayed = True
    await view.refresh()
    registry.change(FakeJournal(), RunnerAdded("a"))
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("ALTER TABLE tokens RENAME TO elsewhere")
    os.utime(path, (LONG_AGO, LONG_AGO))
    for _ in range(3):
        mock_clock.jump(UNREAD_SECONDS * 0.9)
        await view.refresh()
    assert not view.is_fresh
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("ALTER TABLE elsewhere RENAME TO tokens")
    await view.refresh()
    assert view.is_fresh
    assert "a" in view.credentials.runners


async def test_many_who_wait_for_a_look_that_fails_share_it(
    view: RegistryView, registry: Registry, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = registry.mark, 0

    def counted() -> object:
        nonlocal looks
        looks += 1
        return look()

    monkeypatch.setattr(registry, "mark", counted)
    path.unlink()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(view.refresh)
    assert 1 <= looks <= 2


async def test_the_log_hears_of_a_registry_that_is_gone_and_of_its_return_and_now_and_then_between(
    view: RegistryView, path: Path, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    for _ in range(2 * int(REMIND_SECONDS)):
        await view.refresh()
        mock_clock.jump(1.0)
    assert len(caplog.messages) == 2
    elsewhere.rename(path)
    await view.refresh()
    path.rename(elsewhere)
    await view.refresh()
    assert [message.partition(",")[0] for message in caplog.messages[2:]] == [
        "registry in reach again",
        "registry out of reach",
    ]
