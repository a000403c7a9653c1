"""Warnings before something expires."""

from datetime import UTC, datetime, timedelta

import pytest

from agentproxy.protocol.expiry import expiry_notices, threshold

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TABLE = [
    (timedelta(days=400), None),
    (timedelta(days=60) + SECOND, None),
    (timedelta(days=60), 60),
    (timedelta(days=30) + SECOND, 60),
    (timedelta(days=30), 30),
    (timedelta(days=7) + SECOND, 30),
    (timedelta(days=7), 7),
    (SECOND, 7),
    (timedelta(0), 0),
    (-SECOND, 0),
]


@pytest.mark.parametrize(("left", "expected"), TABLE)
def test_each_threshold_begins_exactly_at_its_day(left: timedelta, expected: int | None) -> None:
    assert threshold(NOW + left, NOW) == expected


def test_what_never_expires_is_never_warned_about() -> None:
    assert threshold(None, NOW) is None
    assert expiry_notices({"key modern": None}, NOW) == []


def test_the_most_urgent_stands_first_and_says_how_long() -> None:
    expiries = {
        "key a": NOW + timedelta(days=45),
        "key b": NOW - timedelta(days=1),
        "token c": NOW + timedelta(hours=3),
        "key d": NOW + timedelta(days=1, hours=1),
        "key e": NOW + timedelta(days=90),
    }
    assert [str(notice) for notice in expiry_notices(expiries, NOW)] == [
        "key b expired on 2026-11-21",
        "token c expires today, on 2026-11-22",
        "key d expires in 1 day, on 2026-11-23",
        "key a expires in 45 days, on 2027-01-06",
    ]
