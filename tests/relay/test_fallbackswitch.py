"""A switch is bounded in time, whatever clocks and restarts do."""

import errno
import json
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.runtime.files import write_atomically
from relay import fallbackswitch
from relay.fallbackmode import FallbackConfig, FallbackMode
from relay.fallbackswitch import HostClock, SwitchKeeper

HOUR = 3600


@dataclass
class HandClock:
    """Clocks that a test turns."""

    wall: datetime = datetime(2026, 11, 22, tzinfo=UTC)
    seconds: float = 1000.0
    name: str = "first"

    def now(self) -> datetime:
        return self.wall

    def since_boot(self) -> float:
        return self.seconds

    def boot(self) -> str:
        return self.name

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds

    def reboot(self, down: float) -> None:
        self.wall += timedelta(seconds=down)
        self.seconds, self.name = 5.0, self.name + "'"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fallback" / "switch.json"


def keeper(path: Path, clock: HandClock) -> SwitchKeeper:
    made = SwitchKeeper(path, clock)
    made.load()
    return made


def test_it_holds_for_its_time_and_no_longer(path: Path, clock: HandClock) -> None:
    switch = keeper(path, clock)
    switch.set(FallbackMode.FORCED, 2 * HOUR, "drill", "uid 0")
    clock.pass_time(2 * HOUR - 1)
    current = switch.current()
    assert current is not None
    assert (current.mode, switch.left()) == (FallbackMode.FORCED, 1.0)
    clock.pass_time(1)
    assert switch.current() is None
    switch.keep()
    assert not path.exists()


def test_a_switch_that_comes_in_the_moment_in_which_another_ends_stays(
    path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = keeper(path, clock)
    switch.set(FallbackMode.FORCED, HOUR, "drill", "uid 0")
    clock.pass_time(HOUR)
    since_boot = clock.since_boot

    def asked() -> float:
        monkeypatch.undo()
        passed = since_boot()
        switch.set(FallbackMode.NEVER, 0, "found the cause", "uid 0")
        return passed

    monkeypatch.setattr(clock, "since_boot", asked)
    for _ in range(2):
        current = switch.current()
        assert current is not None
        assert current.mode is FallbackMode.NEVER


def test_a_clock_that_goes_back_or_forward_while_the_host_runs_changes_nothing(path: Path, clock: HandClock) -> None:
    switch = keeper(path, clock)
    switch.set(FallbackMode.FORCED, HOUR, "drill", "uid 0")
    clock.wall -= timedelta(days=400)
    clock.pass_time(HOUR - 1)
    assert switch.left() == 1.0
    clock.wall += timedelta(days=800)
    assert switch.left() == 1.0
    clock.pass_time(1)
    assert switch.current() is None


def test_a_restart_of_the_relay_gives_no_time_back(path: Path, clock: HandClock) -> None:
    keeper(path, clock).set(FallbackMode.FORCED, HOUR, "drill", "uid 0")
    clock.pass_time(1800)
    clock.wall -= timedelta(days=1)
    second = keeper(path, clock)
    assert second.left() == 1800.0
    clock.pass_time(1800)
    assert keeper(path, clock).current() is None


def test_a_reboot_counts_the_time_that_the_host_was_down(path: Path, clock: HandClock) -> None:
    first = keeper(path, clock)
    first.set(FallbackMode.FORCED, HOUR, "drill", "uid 0")
    clock.pass_time(600)
    first.keep()
    clock.reboot(down=600)
    assert keeper(path, clock).left() == 2400.0
    clock.reboot(down=2400)
    assert keeper(path, clock).current() is None


def test_a_clock_that_went_back_over_a_reboot_ends_the_switch(path: Path, clock: HandClock) -> None:
    keeper(path, clock).set(FallbackMode.FORCED, HOUR, "drill", "uid 0")
    clock.reboot(down=-86_400)
    assert keeper(path, clock).current() is None
    assert not path.exists()


def test_a_switch_that_a_clock_ended_is_over_also_where_its_file_cannot_be_taken_away(
    path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that an error has made read-only must not keep the relay from serving by the oracle."""

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    keeper(path, clock).set(FallbackMode.FORCED, HOUR, "drill", "uid 0")
    clock.reboot(-HOUR)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        switch = keeper(path, clock)
    assert switch.current() is None
    switch.keep()  # tries it again
    assert not path.exists()


@pytest.mark.parametrize("seconds", [0, HOUR])
def test_a_clock_that_went_back_over_a_reboot_does_not_let_a_host_sign_that_was_told_never_to(
    path: Path, clock: HandClock, seconds: int
) -> None:
    keeper(path, clock).set(FallbackMode.NEVER, seconds, "the key may be stolen", "uid 0")
    for _ in range(2):
        clock.reboot(down=-86_400)
        current = keeper(path, clock).current()
        assert current is not None
        assert current.mode is FallbackMode.NEVER
    clock.pass_time(HOUR)
    assert (keeper(path, clock).current() is None) is bool(seconds)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"mode": "forced"}', b"\xff", b"[" * 2000])
def test_a_damaged_file_lets_relay_yaml_count(path: Path, clock: HandClock, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert keeper(path, clock).current() is None


def test_a_longer_time_written_into_the_file_is_refused(path: Path, clock: HandClock) -> None:
    keeper(path, clock).set(FallbackMode.FORCED, HOUR, "drill", "uid 0")
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 8 * 86_400}))
    assert keeper(path, clock).current() is None


@pytest.mark.parametrize(
    ("mode", "seconds"),
    [
        (FallbackMode.FORCED, 0),
        (FallbackMode.AUTO, 0),
        (FallbackMode.FORCED, 8 * 86_400),
        (FallbackMode.FORCED, -1),
        (FallbackMode.NEVER, -1),
    ],
)
def test_every_mode_but_never_needs_a_bound(path: Path, clock: HandClock, mode: FallbackMode, seconds: int) -> None:
    with pytest.raises(RemoteProtocolError):
        keeper(path, clock).set(mode, seconds, "drill", "uid 0")
    assert not path.exists()


def test_never_holds_until_somebody_switches_again(path: Path, clock: HandClock) -> None:
    switch = keeper(path, clock)
    switch.set(FallbackMode.NEVER, 0, "no more", "uid 0")
    clock.pass_time(10**8)
    current = keeper(path, clock).current()
    assert current is not None
    assert current.mode is FallbackMode.NEVER
    switch.clear()
    assert keeper(path, clock).current() is None


def test_where_the_boot_is_hidden_a_restart_counts_by_the_wall_clock_and_one_that_went_back_ends_it(
    path: Path, clock: HandClock
) -> None:
    keeper(path, clock).set(FallbackMode.FORCED, HOUR, "drill", "uid 0")
    clock.pass_time(600)
    clock.name = "hidden-2"
    assert keeper(path, clock).left() == 3000.0
    clock.wall -= timedelta(seconds=1)
    clock.name = "hidden-3"
    assert keeper(path, clock).current() is None


def test_what_is_switched_while_the_time_is_noted_stays(
    path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = keeper(path, clock)
    held.set(FallbackMode.FORCED, 600, "a test", "root")
    begun, go = threading.Event(), threading.Event()

    def slow(target: Path, data: bytes, mode: int) -> None:
        begun.set()
        assert go.wait(10)
        write_atomically(target, data, mode)

    monkeypatch.setattr(fallbackswitch, "write_atomically", slow)
    noting = threading.Thread(target=held.keep)
    noting.start()
    assert begun.wait(10)
    monkeypatch.setattr(fallbackswitch, "write_atomically", write_atomically)
    switching = threading.Thread(target=held.set, args=(FallbackMode.NEVER, 0, "over", "root"))
    switching.start()
    switching.join(0.2)  # it would be done, if it did not wait
    go.set()
    noting.join(10)
    switching.join(10)
    for one in (held, keeper(path, clock)):
        switch = one.current()
        assert switch is not None
        assert switch.mode is FallbackMode.NEVER


def test_relay_yaml_cannot_force() -> None:
    with pytest.raises(ConfigError, match="expected never or auto"):
        FallbackConfig(FallbackMode.FORCED)


def test_a_boot_whose_id_is_hidden_has_a_name_that_no_other_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under systemd's ProcSubset=pid."""
    monkeypatch.setattr(fallbackswitch, "_BOOT_ID", Path("/proc/self/nothing"))
    assert HostClock().boot() != HostClock().boot()


def test_the_hosts_own_clock_runs() -> None:
    clock = HostClock()
    assert clock.since_boot() > 0
    assert len(clock.boot()) == 36
    assert clock.now().tzinfo is UTC
