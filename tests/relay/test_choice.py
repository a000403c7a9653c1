"""Which oracle is asked, and which are worth a connection: a table of situations."""

import pytest

from relay.choice import Candidate, order, wanted

NOW = 1000.0
WELL = Candidate(is_connected=True)
NEW = Candidate(is_connected=True, settled_at=NOW + 5)
AILING = Candidate(is_connected=True, ails_until=NOW + 5)
AWAY = Candidate(is_connected=False)
UNTRIED = Candidate(is_connected=False, is_untried=True)


@pytest.mark.parametrize(
    ("candidates", "current", "expected"),
    [
        ((WELL, WELL), None, (0, 1)),
        ((WELL, WELL), 0, (0, 1)),
        ((WELL, WELL), 1, (0, 1)),  # the first one is well again
        ((NEW, WELL), 1, (1, 0)),  # … and must show first that it lasts
        ((NEW, NEW), None, (0, 1)),  # with nobody in use nobody waits
        ((AWAY, WELL), 0, (1,)),
        ((AILING, WELL), 0, (1, 0)),
        ((AILING, AWAY), 0, (0,)),  # better than none
        ((AILING, NEW), 0, (1, 0)),
        ((NEW, WELL, WELL), 2, (1, 0, 2)),
        ((AWAY, AWAY), 0, ()),
        ((), None, ()),
    ],
)
def test_the_first_that_is_well_is_asked(
    candidates: tuple[Candidate, ...], current: int | None, expected: tuple[int, ...]
) -> None:
    assert order(candidates, current, NOW) == expected


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ((UNTRIED, UNTRIED, UNTRIED), (True, True, False)),
        ((WELL, WELL, WELL), (True, True, False)),
        ((WELL, AWAY, AWAY, UNTRIED), (True, True, True, True)),
        ((AWAY, WELL, WELL, WELL), (True, True, True, False)),
        ((AILING, WELL, AWAY), (True, True, True)),
    ],
)
def test_two_connections_are_enough_while_they_are_well(
    candidates: tuple[Candidate, ...], expected: tuple[bool, ...]
) -> None:
    assert wanted(candidates, NOW) == expected
