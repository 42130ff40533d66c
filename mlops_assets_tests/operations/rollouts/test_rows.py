"""The clock of a trial: what is asked about the past, or about the future, neither moves it nor ends the trial."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_assets_tests.operations.trial_examples import Asked

DAY = 24 * 60  # minutes
BEGUN = 40 * DAY


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """A trial that began on the fortieth day; asked for minute by minute from then on."""
    asked = Asked(tmp_path, strategy="shadow")
    asked("E0", minutes=BEGUN)
    asked.trying.write(*asked.records)
    asked.records.clear()
    return asked.begin()


def ten_minutes(asked: Asked) -> None:
    for minute in range(11):
        asked(f"E{minute}", minutes=BEGUN + 5 + minute, also_shadow=True)


def test_it_goes_by_the_time_since_the_first_request(asked: Asked):
    ten_minutes(asked)
    assert asked.seen().waited_s == 600


@pytest.mark.parametrize("first", [True, False])
def test_one_old_event_time_does_not_end_a_trial(asked: Asked, first: bool):
    """It was taken for the begin of the trial, which ended by its patience."""
    if not first:
        ten_minutes(asked)
    asked("old", minutes=5, also_shadow=True)
    if first:
        ten_minutes(asked)
    assert asked.seen().waited_s == 600
    asked.trying.advance()
    assert asked.trying.steps == []


def test_nor_does_a_late_one_where_nothing_was_asked_before(tmp_path: Path):
    asked = Asked(tmp_path, strategy="shadow").begin()
    ten_minutes(asked)
    asked("old", minutes=5, also_shadow=True)
    assert asked.seen().waited_s == 600


def test_nor_what_is_asked_about_the_future(asked: Asked):
    ten_minutes(asked)
    in_thirty_years = 30 * 365 * DAY
    asked("new", minutes=in_thirty_years, also_shadow=True)
    assert asked.seen().waited_s == 600


@pytest.mark.parametrize("status", [422, 500])
def test_nor_what_was_not_answered_which_is_dated_as_it_was_served(asked: Asked, status: int):
    ten_minutes(asked)
    now = int((datetime.now(UTC) - asked.trying.spec.live_from).total_seconds() // 60)
    asked(None, minutes=now, status=status, error="refused", label=False)
    assert asked.seen().waited_s == 600


def test_what_is_replayed_alone_takes_no_time(asked: Asked):
    for day in range(30):
        asked(f"E{day}", minutes=day * DAY, also_shadow=True)
    assert asked.seen().waited_s == 0


def test_patience_ends_a_trial_all_the_same(asked: Asked):
    ten_minutes(asked)
    asked("late", minutes=BEGUN + 5 + 28 * DAY, also_shadow=True)
    asked.trying.write(*asked.records)
    asked.trying.advance()
    assert asked.trying.steps == ["inconclusive"]
