"""Every record is in the table of its window once, with the label that counts, whatever happened on the way there."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from mlops_assets.operations.live_traffic import (
    compact,
    ingest,
    live_window,
    live_windows,
    read_window,
    window_path,
)
from mlops_assets.stores.prediction_log import LogWriter
from mlops_assets_tests.core.examples import LIVE_FROM
from mlops_assets_tests.operations.traffic_examples import FEATURES, HOUR, Traffic, window
from mlops_assets_tests.stores.test_bundles import FILES, MANIFEST


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return Traffic(tmp_path)


def test_without_a_log_there_is_nothing(traffic: Traffic) -> None:
    assert ingest(traffic.stores, [traffic.spec])["delay"].records == 0
    assert traffic.take() == {}
    assert live_windows(traffic.spec, traffic.stores) == {}
    with pytest.raises(FileNotFoundError, match="materialise delay/live_traffic/2024-03-01 first"):
        traffic.read()


def test_a_row_tells_everything_about_an_answer(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1, imputed=("carrier", "seats"), out_of_domain=("temp",)), traffic.label(1))
    assert list(traffic.take()) == [window(0)]
    row = traffic.read().iloc[0].to_dict()
    at = pd.Timestamp(LIVE_FROM + HOUR)
    assert row == {
        "id": "r1",
        "entity": "E1",
        "event_time": at,
        "served_at": at,
        "version": 3,
        "bundle": traffic.bundle,
        "release": 1,
        "rollout": "r-1",
        "role": "champion",
        "status": 200,
        "error": None,
        "latency_ms": 1.5,
        "imputed": "carrier,seats",
        "out_of_domain": "temp",
        "feature.temp": 11.0,
        "feature.seats": 100.0,
        "feature.night": 1.0,
        "feature.carrier": None,
        "feature.origin": "EWR",
        "output_0": 0.4,
        "output_1": 0.6,
        "label": 1.0,
        "label_observed_at": at + HOUR,
        "label_revision": 0,
    }


def test_a_window_is_summed_up(traffic: Traffic) -> None:
    failed = {"features": (), "output": (), "latency_ms": 900.0}
    traffic.segment(
        traffic.prediction(1, latency_ms=1.0, imputed=("temp",)),
        traffic.prediction(2, latency_ms=3.0),
        *[traffic.prediction(3 + n, status=status, **failed) for n, status in enumerate((422, 503, 429, 500))],
        traffic.label(1),
        traffic.label(3),
    )
    traffic.take()
    about = live_window(traffic.spec, traffic.stores, window(0))
    assert (about.rows, about.answered, about.labelled, about.coverage) == (6, 2, 1, 0.5)
    assert (about.refused, about.shed, about.failed) == (1, 2, 1)
    assert (about.imputed_rows, about.latency_p50_ms) == (1, 2.0)
    assert about.last_event_at == about.last_served_at == LIVE_FROM + 6 * HOUR
    assert about.last_label_observed_at == LIVE_FROM + 4 * HOUR
    assert live_windows(traffic.spec, traffic.stores) == {window(0): about}
    assert pd.read_parquet(window_path(traffic.spec, traffic.stores, window(0))).attrs["content"] == about.content


def test_rows_stand_in_the_order_of_event_time(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(5), traffic.prediction(2))
    traffic.segment(traffic.prediction(3), traffic.prediction(1))
    traffic.take()
    assert traffic.read()["id"].tolist() == ["r1", "r2", "r3", "r5"]


def test_some_columns_can_be_read(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(5))
    traffic.take()
    assert list(read_window(traffic.spec, traffic.stores, window(0), ["id", "label"])) == ["id", "label"]


def test_a_late_label_touches_its_window_alone(traffic: Traffic) -> None:
    traffic.segment(*[traffic.prediction(24 * day) for day in range(4)])
    before = traffic.take()
    assert len(before) == 4
    traffic.segment(traffic.label(24, hours=900))
    stale = traffic.take()
    assert list(stale) == [window(1)]
    assert stale[window(1)] != before[window(1)]
    assert traffic.labels(1) == {"r24": 1.0}
    assert traffic.take() == {}


def test_windows_without_traffic_between_others_are_due_too(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(24), traffic.prediction(96), traffic.label_by_event(240))
    assert {key: content == "empty" for key, content in traffic.take().items()} == {
        window(1): False,
        window(2): True,
        window(3): True,
        window(4): False,
    }
    empty = traffic.read(2)
    assert len(empty) == 0
    assert list(empty) == list(traffic.read(1))
    assert live_window(traffic.spec, traffic.stores, window(2)).coverage is None
    assert traffic.take() == {}


def test_a_segment_is_read_once(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1))
    first = ingest(traffic.stores, [traffic.spec])["delay"]
    assert (first.segments, first.records, first.windows, first.finished) == (1, 1, (window(0),), True)
    assert ingest(traffic.stores, [traffic.spec])["delay"].segments == 0
    traffic.segment(traffic.prediction(2))
    assert ingest(traffic.stores, [traffic.spec])["delay"].segments == 1


def test_a_budget_stops_between_segments_and_the_rest_comes_next(traffic: Traffic) -> None:
    for number in range(3):
        traffic.segment(traffic.prediction(number))
    taken = [ingest(traffic.stores, [traffic.spec], budget_s=0)["delay"] for _ in range(3)]
    assert [one.segments for one in taken] == [1, 1, 1]
    assert [one.finished for one in taken] == [False, False, True]
    traffic.take()
    assert len(traffic.read()) == 3


def test_removed_segments_are_forgotten_and_their_rows_stay(traffic: Traffic) -> None:
    path = traffic.segment(traffic.prediction(1))
    traffic.take()
    path.unlink()
    traffic.segment(traffic.prediction(2))
    traffic.take()
    assert traffic.read()["id"].tolist() == ["r1", "r2"]
    marked = traffic.stores.lake.read_document("delay", "traffic/ingested", list[str])
    assert marked == list(traffic.stores.log.sealed())


def test_what_a_dead_worker_left_is_taken_and_what_a_live_one_writes_is_not(traffic: Traffic) -> None:
    live = LogWriter(traffic.stores.home.prediction_log, "live")
    live.append([traffic.prediction(1)])
    sealed = traffic.segment(traffic.prediction(2))
    sealed.rename(sealed.with_suffix(".open"))
    with sealed.with_suffix(".open").open("ab") as file:
        file.write(b"half a record")
    traffic.take()
    assert traffic.read()["id"].tolist() == ["r2"]
    live.close()
    traffic.take()
    assert traffic.read()["id"].tolist() == ["r1", "r2"]


def test_one_model_leaves_the_records_of_another(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1), traffic.prediction(2, model="other"))
    traffic.segment(traffic.prediction(3, model="other"))
    traffic.take()
    assert traffic.read()["id"].tolist() == ["r1"]


def test_probes_are_no_traffic(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1), traffic.prediction(2, probe=True))
    traffic.take()
    assert traffic.read()["id"].tolist() == ["r1"]


# -- sent twice ------------------------------------------------------------------------------------------------------


def test_a_record_that_comes_twice_is_one_row_the_first_served(traffic: Traffic) -> None:
    again = traffic.prediction(1, served_at=LIVE_FROM + 2 * HOUR, output=(0.9, 0.1))
    traffic.segment(again)
    traffic.take()
    traffic.segment(traffic.prediction(1), again)
    traffic.take()
    assert traffic.read()["output_0"].tolist() == [0.4]


@pytest.mark.parametrize("changes", [{"role": "shadow"}, {"version": 4}, {"id": "again"}])
def test_another_answer_is_another_row(traffic: Traffic, changes: dict[str, Any]) -> None:
    traffic.segment(traffic.prediction(1), traffic.prediction(1, **changes))
    traffic.take()
    assert len(traffic.read()) == 2


def test_what_was_scored_in_shadow_is_in_the_table_and_counts_for_nothing(traffic: Traffic) -> None:
    shadow = {"role": "shadow", "version": 4, "latency_ms": 900.0, "imputed": ("temp",)}
    traffic.segment(
        traffic.prediction(1),
        traffic.prediction(1, **shadow),
        traffic.prediction(2, role="challenger", version=4),
        traffic.prediction(2, **{**shadow, "status": 500, "error": "a fault", "output": ()}),
        traffic.label(1),
    )
    traffic.take()
    assert sorted(traffic.read()["role"]) == ["challenger", "champion", "shadow", "shadow"]
    assert traffic.read().query("id == 'r1'")["label"].tolist() == [1, 1], "the shadow is labelled too"
    about = live_window(traffic.spec, traffic.stores, window(0))
    assert (about.rows, about.answered, about.failed, about.labelled, about.imputed_rows) == (2, 2, 0, 1, 0)
    assert about.latency_p99_ms == 1.5


# -- features --------------------------------------------------------------------------------------------------------


def test_features_are_named_by_the_bundle_that_answered(traffic: Traffic) -> None:
    former = (FEATURES[4], msgspec.structs.replace(FEATURES[0], name="gone"), FEATURES[0])
    manifest = msgspec.structs.replace(MANIFEST, model="delay", version=2, features=former)
    older = traffic.stores.bundles.put(manifest, FILES)
    traffic.segment(traffic.prediction(1, bundle=older, features=("JFK", 7.0, None)), traffic.prediction(2))
    traffic.take()
    rows = traffic.read().set_index("id")
    assert rows["feature.origin"].to_dict() == {"r1": "JFK", "r2": "EWR"}
    assert rows["feature.gone"].fillna(-1).to_dict() == {"r1": 7.0, "r2": -1}
    assert rows["feature.temp"].fillna(-1).to_dict() == {"r1": -1, "r2": 12.0}


def test_a_feature_that_was_a_category_once_is_a_number_where_it_can_be(traffic: Traffic) -> None:
    former = (msgspec.structs.replace(FEATURES[0], type="category"), *FEATURES[1:])
    older = traffic.stores.bundles.put(msgspec.structs.replace(MANIFEST, model="delay", features=former), FILES)
    for number, text in enumerate(("7.5", "warm")):
        traffic.segment(traffic.prediction(number, bundle=older, features=(text, 1.0, True, None, "EWR")))
    traffic.segment(traffic.prediction(2))
    traffic.take()
    assert traffic.read()["feature.temp"].fillna(-1).tolist() == [7.5, -1, 12.0]


def test_missing_is_missing_however_it_is_written(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1, features=(np.nan, None, None, None, None)))
    traffic.take()
    rows = traffic.read()
    assert rows[[name for name in rows if name.startswith("feature.")]].isna().all(axis=None)


def test_a_request_that_failed_is_a_row_without_features(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1, status=422, error="temp: expected a number", features=(), output=()))
    traffic.take()
    row = traffic.read().iloc[0]
    assert (row["status"], row["error"]) == (422, "temp: expected a number")
    assert row[["feature.temp", "feature.origin", "output_0"]].isna().all()


# -- windows ---------------------------------------------------------------------------------------------------------


def test_weeks_begin_on_monday_in_the_declared_zone(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path, monitoring={"window": "week", "timezone": "America/New_York"})
    monday = datetime(2024, 3, 11, 4, tzinfo=UTC)  # midnight in New York, by then in summer time
    for number, moment in enumerate((monday - timedelta(seconds=1), monday)):
        traffic.segment(traffic.prediction(number, event_time=moment, served_at=moment))
    assert list(traffic.take()) == ["2024-03-04", "2024-03-11"]


@pytest.mark.parametrize("key", ["2024-02-29", "2024-03-06", "yesterday"])
def test_only_windows_of_the_calendar_can_be_compacted(tmp_path: Path, key: str) -> None:
    traffic = Traffic(tmp_path, monitoring={"until": "2024-03-06T00:00:00Z"})
    with pytest.raises(ValueError, match=f"{key}"):
        compact(traffic.spec, traffic.stores, key)


def test_compacting_again_gives_the_same_bytes(traffic: Traffic) -> None:
    traffic.segment(*[traffic.prediction(number) for number in range(20)], *[traffic.label(n) for n in range(9)])
    traffic.take()
    path = Path(window_path(traffic.spec, traffic.stores, window(0)))
    before = path.read_bytes()
    compact(traffic.spec, traffic.stores, window(0))
    assert path.read_bytes() == before


def test_a_lost_table_is_due_again(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1))
    stale = traffic.take()
    Path(window_path(traffic.spec, traffic.stores, window(0))).unlink()
    assert traffic.take() == stale
    assert len(traffic.read()) == 1
