"""Windows of logged traffic and the verdicts on them, from the log to the written document."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mlops_assets.core.monitoring.health import DataHealth, ModelHealth
from mlops_assets.core.rollout import Release
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.readings import DATA_HEALTH, MODEL_HEALTH
from mlops_assets_tests.operations.watched import LIVE_FROM, Fit, Task, Watched, watched_fit, watched_rows
from mlops_assets_tests.serving.factory import publish

DAY = timedelta(days=1)


def monitored(watched: Watched) -> dict[str, tuple[DataHealth, ModelHealth]]:
    """Compact what is new, and look at those windows in order."""
    windows = watched.compacted()
    monitor = Monitor(watched.spec, watched.stores)
    return {window: (monitor.data_health(window).health, monitor.model_health(window)) for window in windows}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_traffic_like_the_training_is_healthy_and_written_down(tmp_path: Path, task: Task):
    watched = Watched.released(tmp_path, task)
    watched.log(watched_rows(task, LIVE_FROM, 4, seed=7))
    verdicts = monitored(watched)
    assert list(verdicts) == ["2024-03-01", "2024-03-02", "2024-03-03", "2024-03-04"]
    for window, (data, model) in verdicts.items():
        assert (data.verdict, model.verdict) == ("healthy", "healthy"), (window, data.reasons, model.reasons)
        lake = watched.stores.lake
        assert lake.read_document("delay", f"{DATA_HEALTH}/{window}", DataHealth) == data
        assert lake.read_document("delay", f"{MODEL_HEALTH}/{window}", ModelHealth).sums == model.sums
        assert model.cohort.labelled == model.cohort.answered == data.rows == 120
        assert model.version == 1
        assert set(model.reference) == set(model.realised)
    # the newest label is known two days after the last event, and so are all others by then
    assert verdicts["2024-03-04"][1].cohort.matured == 120


def test_a_dead_feed_is_named_and_unhealthy(tmp_path: Path):
    watched, rows = Watched.released(tmp_path), watched_rows("binary", LIVE_FROM, 3, seed=7)
    rows.loc[rows["at"] >= LIVE_FROM + 2 * DAY, "temp"] = np.nan
    watched.log(rows)
    data, _ = monitored(watched)["2024-03-03"]
    assert data.verdict in ("unhealthy", "failed")
    assert data.broken == ("temp",)
    assert "missing" in data.reasons[0]


def test_new_categories_are_named(tmp_path: Path):
    watched, rows = Watched.released(tmp_path), watched_rows("binary", LIVE_FROM, 1, seed=7)
    rows.loc[rows.index[:12], "carrier"] = "ZZ"
    watched.log(rows)
    data, _ = monitored(watched)["2024-03-01"]
    assert data.unseen == {"carrier": ("ZZ",)}
    assert "carrier" in data.culprits


def test_labels_that_contradict_the_model_are_decay_and_confirmed_by_a_second_window(tmp_path: Path):
    watched, rows = Watched.released(tmp_path), watched_rows("binary", LIVE_FROM, 4, seed=7)
    late = rows["at"] >= LIVE_FROM + 2 * DAY
    flipped = late & (np.random.default_rng(1).random(len(rows)) < 0.12)
    rows.loc[flipped, "outcome"] = 1 - rows.loc[flipped, "outcome"]
    watched.log(rows)
    verdicts = {window: model.verdict for window, (_, model) in monitored(watched).items()}
    assert verdicts["2024-03-02"] == "healthy"
    assert verdicts["2024-03-04"] == "unhealthy"


def test_without_labels_the_estimate_speaks_until_they_are_due(tmp_path: Path):
    watched = Watched.released(tmp_path)
    rows = watched_rows("binary", LIVE_FROM, 6, seed=7)
    watched.log(rows, labels=False)
    verdicts = monitored(watched)
    newest = verdicts["2024-03-06"][1]
    assert newest.verdict == "healthy"
    assert "labels are not due yet (0 of 120 are here)" in newest.reasons[0]
    assert newest.estimated["roc_auc"].standard_error > 0
    assert "calibrated on the held-out rows" in newest.estimated_by
    oldest = verdicts["2024-03-01"][1]
    assert oldest.verdict == "insufficient data"
    assert "label feed has dried up" in oldest.reasons[0]


def test_too_few_rows_say_nothing_and_a_day_without_any_is_a_failure(tmp_path: Path):
    watched = Watched.released(tmp_path)
    watched.log(watched_rows("binary", LIVE_FROM, 1, seed=7, rows_a_day=20))
    watched.log(watched_rows("binary", LIVE_FROM + 2 * DAY, 1, seed=8), worker="later")
    verdicts = monitored(watched)
    assert [data.verdict for data, _ in verdicts.values()] == ["insufficient data", "failed", "healthy"]
    assert verdicts["2024-03-02"][0].reasons == ("no traffic came, where about 120 rows are usual",)
    assert verdicts["2024-03-01"][1].verdict == "insufficient data"
    assert verdicts["2024-03-02"][1].reasons == ("no request came",)


def test_failed_and_shed_requests_count_against_the_service(tmp_path: Path):
    watched, rows = Watched.released(tmp_path), watched_rows("binary", LIVE_FROM, 1, seed=7)
    watched.log(rows, status=[500] * 10 + [503] * 5 + [200] * (len(rows) - 15))
    _, model = monitored(watched)["2024-03-01"]
    assert (model.service.requests, model.service.refused, model.service.failed, model.service.shed) == (120, 0, 10, 5)
    assert model.verdict == "unhealthy"
    assert "10 of 120 requests failed and 5 were turned away" in model.reasons[0]


def test_the_former_champion_is_asked_again_on_the_same_rows(tmp_path: Path):
    """A version that was trained on labels without meaning is released after a good one: its predecessor would do better."""
    watched = Watched.released(tmp_path)
    bad = watched_fit("binary", 2)
    bundle = watched.stores.bundles.put(bad.manifest, bad.files)
    publish(watched.stores.home, "delay", Release(2, bundle))
    worse = Watched(bad, watched.stores, bundle)
    worse.log(watched_rows("binary", LIVE_FROM, 1, seed=7))
    _, model = monitored(worse)["2024-03-01"]
    assert model.former is not None
    assert (model.former.version, model.former.is_better) == (1, True)
    assert any("version 1 would have been better" in reason for reason in model.reasons)


def test_labels_that_come_later_change_the_verdict_of_their_window(tmp_path: Path):
    watched, rows = Watched.released(tmp_path), watched_rows("binary", LIVE_FROM, 4, seed=7)
    watched.log(rows, labels=False)
    assert monitored(watched)["2024-03-01"][1].verdict == "insufficient data"
    watched.log(rows[rows["at"] < LIVE_FROM + DAY], worker="again")
    again = monitored(watched)
    assert list(again) == ["2024-03-01"]
    assert again["2024-03-01"][1].verdict == "healthy"
    assert again["2024-03-01"][1].cohort.labelled == 120


def test_the_calibration_is_made_anew_where_enough_labels_are_known(tmp_path: Path):
    watched = Watched.released(tmp_path)
    watched.log(watched_rows("binary", LIVE_FROM, 6, seed=7, rows_a_day=800))
    verdicts = monitored(watched)
    assert "held-out rows" in verdicts["2024-03-02"][1].estimated_by
    # labels are known two days late: at the begin of the 6th those of three days are, and of the first event of the 4th
    assert verdicts["2024-03-06"][1].estimated_by == "probabilities calibrated on the 2,401 newest labelled rows"


def test_a_day_on_which_every_request_is_refused_is_no_quiet_day(tmp_path: Path):
    """A caller that had changed what it sends once went unnoticed: no request came, the verdict said."""
    watched, rows = Watched.released(tmp_path), watched_rows("binary", LIVE_FROM, 1, seed=7)
    watched.log(rows, status=[422] * len(rows))
    data, model = monitored(watched)["2024-03-01"]
    assert (data.verdict, data.reasons) == ("failed", ("120 requests came and none was answered",))
    assert model.verdict == "unhealthy"
    assert "120 of 120 requests were not valid" in model.reasons[0]


def test_labels_that_are_not_all_due_decide_nothing(tmp_path: Path):
    """Bad outcomes are known first: a sound model was once called decayed on the labels that had come early."""
    watched, rows = Watched.released(tmp_path), watched_rows("binary", LIVE_FROM, 2, seed=7)
    watched.log(rows, labels=False)
    first = rows[(rows["outcome"] == 1) & (rows["at"] >= LIVE_FROM + DAY)]
    watched.log(first, worker="early", observed_at=LIVE_FROM + 2 * DAY)
    _, model = monitored(watched)["2024-03-02"]
    assert model.cohort.labelled > 50
    assert (model.decayed, model.performance, model.verdict) == (False, None, "healthy")
    assert "labels are not due yet" in model.reasons[0]


def test_an_equally_good_former_champion_is_not_better(tmp_path: Path):
    watched = Watched.released(tmp_path)
    publish(watched.stores.home, "delay", Release(1, watched.bundle))
    again = watched_fit("binary", 1)
    manifest = msgspec.structs.replace(again.manifest, version=3)
    bundle = watched.stores.bundles.put(manifest, again.files)
    publish(watched.stores.home, "delay", Release(3, bundle))
    Watched(Fit(again.spec, again.pipeline, manifest, again.files), watched.stores, bundle).log(
        watched_rows("binary", LIVE_FROM, 1, seed=7)
    )
    _, model = monitored(watched)["2024-03-01"]
    assert model.former is not None
    assert (model.former.version, model.former.is_better) == (1, False)


def test_a_bundle_that_is_no_longer_stored_leaves_nothing_to_compare_with(tmp_path: Path):
    watched = Watched.released(tmp_path)
    watched.log(watched_rows("binary", LIVE_FROM, 1, seed=7))
    watched.compacted()
    shutil.rmtree(watched.stores.bundles.path(watched.bundle))
    monitor = Monitor(watched.spec, watched.stores)
    assert monitor.model_health("2024-03-01").reasons == (
        "nothing to compare with: the bundle that answered has no reference",
    )
    assert monitor.data_health("2024-03-01").health.reasons == ("nothing to compare with",)


def test_now_is_the_newest_event_of_a_window_that_can_be_believed(tmp_path: Path):
    watched = Watched.released(tmp_path)
    watched.log(watched_rows("binary", LIVE_FROM, 2, seed=7))
    watched.log(watched_rows("binary", LIVE_FROM + 9 * DAY, 1, seed=8, rows_a_day=3), worker="astray")
    watched.compacted()
    newest = Monitor(watched.spec, watched.stores).newest_event()
    assert newest is not None
    assert newest.astimezone(UTC) < datetime(2024, 3, 5, tzinfo=UTC)


def test_a_window_that_is_not_over_waits_for_its_end(tmp_path: Path):
    watched, now = Watched.released(tmp_path), datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    watched.log(watched_rows("binary", midnight - DAY, 1, seed=7))
    rows = watched_rows("binary", midnight, 1, seed=8)
    watched.log(rows[rows["at"] <= now], worker="today")
    assert watched.compacted() == [f"{midnight - DAY:%Y-%m-%d}"]
