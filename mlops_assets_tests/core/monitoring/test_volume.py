"""How many rows are usual at an hour, on a weekday, in a week."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from mlops_assets.core.monitoring.profile import Binning, WindowProfile, profile_frame
from mlops_assets.core.monitoring.volume import usual_rows
from mlops_assets.core.monitoring.windows import WindowSize

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
BINNING = Binning.of(pd.DataFrame({"x": np.arange(50.0)}), {"x": "number"})


def block(begin: datetime, rows: int, length: timedelta) -> WindowProfile:
    """A window whose rows are spread evenly over its time."""
    times = pd.Series(pd.date_range(begin, periods=rows, freq=length / rows).astype("datetime64[us, UTC]"))
    return profile_frame(BINNING, pd.DataFrame({"x": np.zeros(rows)}), times)


def days(weeks: int, rows: dict[int, int]) -> list[WindowProfile]:
    """Days with so many rows by weekday."""
    begins = (MONDAY + timedelta(days=day) for day in range(7 * weeks))
    return [block(begin, rows[begin.weekday()], timedelta(days=1)) for begin in begins if rows.get(begin.weekday(), 0)]


def hours(weeks: int, rows: dict[int, int]) -> list[WindowProfile]:
    """Hours with so many rows by hour of the day."""
    begins = (MONDAY + timedelta(hours=hour) for hour in range(24 * 7 * weeks))
    return [block(begin, rows[begin.hour], timedelta(hours=1)) for begin in begins if rows.get(begin.hour, 0)]


@pytest.mark.parametrize("weekday", range(7))
def test_a_day_is_like_its_own_weekday(weekday: int):
    rows = {day: 24 * (day + 1) for day in range(7)}
    begin = MONDAY + timedelta(days=70 + weekday)
    assert usual_rows(days(8, rows), "day", begin) == rows[weekday]


def test_a_weekday_that_is_usually_quiet_is_expected_to_be_so():
    working = dict.fromkeys(range(5), 48)
    assert usual_rows(days(8, working), "day", MONDAY + timedelta(days=75)) == 0
    assert usual_rows(days(8, working), "day", MONDAY + timedelta(days=74)) == 48


@pytest.mark.parametrize("hour", [5, 6, 23])
def test_an_hour_is_like_its_own_hour_of_the_week(hour: int):
    rows = {one: 4 * one for one in range(5, 24)}
    assert usual_rows(hours(4, rows), "hour", MONDAY + timedelta(days=30, hours=hour)) == 4 * hour


def test_nights_are_quiet():
    rows = dict.fromkeys(range(5, 24), 4)
    assert usual_rows(hours(4, rows), "hour", MONDAY + timedelta(days=30, hours=2)) == 0


def test_a_week_is_like_any_other():
    weeks = [block(MONDAY + timedelta(weeks=week), rows, timedelta(weeks=1)) for week, rows in enumerate([70, 90, 200])]
    assert usual_rows(weeks, "week", MONDAY + timedelta(weeks=9)) == 90


@pytest.mark.parametrize("size", ["hour", "day", "week"])
def test_without_blocks_nothing_is_usual(size: WindowSize):
    assert usual_rows([], size, MONDAY) is None
    assert usual_rows([WindowProfile.empty(BINNING)], size, MONDAY) is None
