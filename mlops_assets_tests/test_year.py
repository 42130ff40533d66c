"""The parts of the replayed year that can be tried without a year of traffic."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from mlops_assets.demo import DemoFailed
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.monitor import Monitor
from mlops_assets.year import _decay_found, _is_there, _months
from mlops_assets_tests.operations.watched import LIVE_FROM, Watched, watched_rows

BEGIN, END = LIVE_FROM, LIVE_FROM + timedelta(days=4)


def test_months_follow_each_other_in_the_zone_of_the_windows():
    months = list(_months(declared_models()["air_time"]))
    assert len(months) == 10
    assert [begin.month for begin, _ in months] == list(range(3, 13))
    assert all(end == following for (_, end), (following, _) in pairwise(months))
    assert months[-1][1] == declared_models()["air_time"].monitoring.until


def test_a_month_that_was_sent_is_left_alone_and_one_that_broke_off_is_refused(tmp_path: Path):
    watched = Watched.released(tmp_path)
    assert not _is_there([watched.spec], watched.stores, BEGIN, END)
    watched.log(watched_rows("binary", BEGIN, 4, seed=7))
    watched.compacted()
    assert _is_there([watched.spec], watched.stores, BEGIN, END)
    with pytest.raises(DemoFailed, match="the month was broken off; `make clean`"):
        _is_there([watched.spec], watched.stores, BEGIN, END + timedelta(days=2))


def test_decay_that_is_reported_late_or_never_is_a_failure(tmp_path: Path):
    watched, rows = Watched.released(tmp_path, "regression"), watched_rows("regression", BEGIN, 28, seed=7)
    late = rows["at"] >= BEGIN + timedelta(days=10)
    rows.loc[late, "outcome"] += 15.0
    watched.log(rows)
    monitor, windows = Monitor(watched.spec, watched.stores), watched.compacted()
    for window in windows:
        monitor.model_health(window)
    told = _decay_found(watched.spec, watched.stores)
    assert "decay is reported on 11 March" in told
    never = watched.spec.monitoring.model_copy(update={"floor": 50.0})
    with pytest.raises(DemoFailed, match="decay was reported on"):
        _decay_found(watched.spec.model_copy(update={"monitoring": never}), watched.stores)
