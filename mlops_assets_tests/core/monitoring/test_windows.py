from datetime import UTC, datetime

import dagster as dg
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.monitoring.windows import Windows

START = datetime(2013, 3, 1, 5, tzinfo=UTC)
CALENDARS = [
    Windows("hour", "UTC", START),
    Windows("day", "UTC", START),
    Windows("day", "America/New_York", START),
    Windows("week", "America/New_York", START),
    Windows("week", "UTC", START),
]
moments = st.datetimes(*(one.replace(tzinfo=None) for one in (START, START.replace(year=2014))), timezones=st.just(UTC))


@pytest.mark.parametrize("windows", CALENDARS, ids=lambda one: f"{one.size}-{one.timezone}")
@given(moment=moments)
def test_a_moment_lies_in_its_window(windows: Windows, moment: datetime):
    begin, end = windows.bounds(windows.key(moment))
    assert begin <= moment < end
    assert windows.keys(pd.Series([pd.Timestamp(moment)])).tolist() == [windows.key(moment)]


@pytest.mark.parametrize("windows", CALENDARS, ids=lambda one: f"{one.size}-{one.timezone}")
@given(moment=moments, steps=st.integers(0, 60))
def test_windows_follow_each_other_without_a_gap(windows: Windows, moment: datetime, steps: int):
    key = windows.key(moment)
    later = windows.shift(key, steps)
    assert windows.shift(later, -steps) == key
    assert windows.bounds(later)[1] == windows.bounds(windows.shift(later, 1))[0]
    assert list(windows.between(key, later)) == [windows.shift(key, step) for step in range(steps + 1)]


@pytest.mark.parametrize(
    ("windows", "cron"),
    [(CALENDARS[0], "0 * * * *"), (CALENDARS[2], "0 0 * * *"), (CALENDARS[3], "0 0 * * 1")],
    ids=["hour", "day", "week"],
)
def test_keys_are_those_of_dagster(windows: Windows, cron: str):
    end = windows.shift(windows.first, 300)
    partitions = dg.TimeWindowPartitionsDefinition(
        start=windows.first, end=end, fmt=windows.format, cron_schedule=cron, timezone=windows.timezone
    )
    keys = [windows.shift(windows.first, step) for step in range(300)]
    assert partitions.get_partition_keys() == keys
    for key in keys[::37]:
        there = partitions.time_window_for_partition_key(key)
        assert (there.start.timestamp(), there.end.timestamp()) == tuple(one.timestamp() for one in windows.bounds(key))


def test_a_calendar_begins_with_the_window_of_its_start_and_ends_where_the_history_does():
    windows = Windows("week", "America/New_York", START, until=datetime(2013, 4, 1, 4, tzinfo=UTC))
    assert windows.first == "2013-02-25"
    assert windows.holds("2013-02-25")
    assert not windows.holds("2013-02-18")
    assert windows.holds("2013-03-25")
    assert not windows.holds("2013-04-01")
    assert windows.last("2013-03-04", 4) == ("2013-02-25", "2013-03-04")


@pytest.mark.parametrize(("key", "remedy"), [("March", "write a week such as"), ("2013-03-05", "write '2013-03-04'")])
def test_what_is_no_window_is_refused_with_the_remedy(key: str, remedy: str):
    with pytest.raises(ValueError, match=remedy):
        Windows("week", "UTC", START).bounds(key)
