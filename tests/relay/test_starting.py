"""The command that is named to whoever shall start a relay works where it is named."""

from pathlib import Path

import pytest

from relay import starting
from relay.starting import STATE, how_to_start


@pytest.mark.parametrize(
    ("state", "has_packages", "command"),
    [
        (STATE, True, "systemctl start blind-oracle-relay.socket blind-oracle-relay-control.socket"),
        (STATE, False, "blind-oracle-relay serve"),
        (Path("/srv/relay/state"), True, "blind-oracle-relay serve"),
    ],
)
def test_packages_start_their_relay_by_its_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Path, has_packages: bool, command: str
) -> None:
    monkeypatch.setattr(starting, "UNIT", tmp_path / "unit")
    if has_packages:
        starting.UNIT.touch()
    assert how_to_start(state) == command


def test_the_units_that_are_named_are_those_that_packages_bring() -> None:
    units = Path(__file__).parents[2] / "systemd"
    assert all((units / name).is_file() for name in (*starting.SOCKETS, starting.UNIT.name))
