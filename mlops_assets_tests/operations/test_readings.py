"""What is read of earlier windows, and how much of it is kept."""

import weakref
from datetime import timedelta

import pytest

from mlops_assets.core.metrics import Floats
from mlops_assets.operations import readings
from mlops_assets.operations.readings import Readings
from mlops_assets_tests.operations.watched import LIVE_FROM, Watched, watched_rows

DAYS, ROWS_A_DAY = 10, 30


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    watched = Watched.released(tmp_path_factory.mktemp("home"))
    watched.log(watched_rows("binary", LIVE_FROM, DAYS, seed=7, rows_a_day=ROWS_A_DAY))
    watched.compacted()
    return watched


def key(day: int) -> str:
    return f"{LIVE_FROM + timedelta(days=day):%Y-%m-%d}"


def test_the_labels_known_before_a_window_are_those_that_had_come(watched: Watched):
    """Labels come two days late, and that of the first event of a day is there when the day begins."""
    reader = Readings(watched.spec, watched.stores)
    for day in range(DAYS):
        truth, output = reader.known_before(key(day), watched.bundle)
        assert len(truth) == len(output) == max(0, ROWS_A_DAY * (day - 2) + (day >= 2))
    assert len(reader.known_before(key(5), "another bundle")[0]) == 0


def test_a_long_history_is_neither_kept_nor_read_again(watched: Watched, monkeypatch: pytest.MonkeyPatch):
    """The labelled answers of every window that was ever looked at once stayed in memory."""
    made: list[weakref.ref[Floats]] = []
    read: list[str] = []
    labelled_of, read_window = readings.labelled_of, readings.read_window

    def noted(*given):
        labelled = labelled_of(*given)
        made.append(weakref.ref(labelled.truth))
        return labelled

    def counted(spec, stores, window):
        read.append(window)
        return read_window(spec, stores, window)

    monkeypatch.setattr(readings, "labelled_of", noted)
    monkeypatch.setattr(readings, "read_window", counted)
    monkeypatch.setattr(readings, "REFIT_ROWS", ROWS_A_DAY)
    reader = Readings(watched.spec, watched.stores)
    for day in range(DAYS):
        reader.known_before(key(day), watched.bundle)
        # those of two days are not known yet, and one day with one row more is enough
        assert sum(one() is not None for one in made) <= 4
    assert read == [key(day) for day in range(DAYS - 1)]
