"""`auto` goes on counting where a restart of the relay interrupted it."""

from pathlib import Path

import pytest

from relay.outage import RESTART_SECONDS, Outage
from tests.relay.test_fallbackswitch import HandClock


def again(path: Path, clock: HandClock) -> Outage:
    outage = Outage(path, clock)
    outage.load()
    return outage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outage.json"


def test_an_outage_that_began_before_the_restart_counts_once_an_oracle_had_time_to_answer(path: Path) -> None:
    clock = HandClock()
    first = again(path, clock)
    clock.pass_time(60)
    first.note(60.0)
    clock.pass_time(40)
    second = again(path, clock)
    assert second.seconds(0.0) == 0.0
    assert second.seconds(RESTART_SECONDS - 0.1) < RESTART_SECONDS
    clock.pass_time(RESTART_SECONDS)
    assert second.seconds(RESTART_SECONDS) == pytest.approx(100 + RESTART_SECONDS)


def test_an_oracle_that_answered_ends_it(path: Path) -> None:
    clock = HandClock()
    first = again(path, clock)
    first.note(60.0)
    first.note(None)
    assert not path.exists()
    assert again(path, clock).seconds(20.0) == 20.0


def test_another_boot_counts_anew(path: Path) -> None:
    clock = HandClock()
    again(path, clock).note(60.0)
    clock.reboot(down=1000)
    clock.pass_time(20)
    assert again(path, clock).seconds(20.0) == 20.0


@pytest.mark.parametrize("content", [b"", b"[]", b'{"boot": 1}', b"[" * 2000])
def test_a_damaged_file_counts_anew(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert again(path, HandClock()).seconds(20.0) == 20.0
