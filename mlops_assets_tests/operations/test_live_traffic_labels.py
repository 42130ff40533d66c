"""The label that counts stands beside its answer, in whichever order, way and revision it comes."""

import uuid
from pathlib import Path

import pytest

from mlops_assets_tests.core.examples import LIVE_FROM
from mlops_assets_tests.operations.traffic_examples import HOUR, Traffic, window


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return Traffic(tmp_path)


@pytest.mark.parametrize("by_event", [False, True])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("together", [True, False])
def test_a_label_may_come_before_its_prediction(traffic: Traffic, by_event: bool, order: int, together: bool) -> None:
    label = traffic.label_by_event(30) if by_event else traffic.label(30)
    for record in (label, traffic.prediction(30))[::order]:
        traffic.segment(record)
        if not together:
            traffic.take()
    traffic.take()
    assert traffic.labels(1) == {"r30": 1.0}


def test_a_label_waits_for_as_long_as_its_prediction_does_not_come(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1), traffic.label(2), traffic.label(3))
    traffic.take()
    traffic.segment(traffic.prediction(2))
    traffic.take()
    traffic.segment(traffic.label(3, 0, revision=1))
    traffic.take()
    traffic.segment(traffic.prediction(3))
    traffic.take()
    assert traffic.labels() == {"r2": 1.0, "r3": 0.0}
    assert traffic.stores.lake.tables("delay", "traffic/unplaced") == ()


@pytest.mark.parametrize("first_by_event", [False, True])
@pytest.mark.parametrize("second_by_event", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_the_highest_revision_counts_however_it_names_the_request(
    traffic: Traffic, first_by_event: bool, second_by_event: bool, order: int
) -> None:
    first = (traffic.label_by_event if first_by_event else traffic.label)(1, 1)
    second = (traffic.label_by_event if second_by_event else traffic.label)(1, 0, revision=1)
    traffic.segment(traffic.prediction(1))
    for label in (first, second)[::order]:
        traffic.segment(label)
        traffic.take()
    assert traffic.labels() == {"r1": 0.0}
    assert traffic.read()["label_revision"].tolist() == [1]


@pytest.mark.parametrize("order", [1, -1])
def test_of_equal_revisions_the_last_received_counts(traffic: Traffic, order: int) -> None:
    labels = [traffic.label(1, value, received_at=LIVE_FROM + (2 + value) * HOUR) for value in (1, 0)]
    traffic.segment(traffic.prediction(1), *labels[::order])
    traffic.take()
    assert traffic.labels() == {"r1": 1.0}


def test_a_label_goes_to_every_answer_of_its_request(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1), traffic.prediction(1, role="standby", version=2), traffic.label(1))
    traffic.take()
    assert traffic.read()["label"].tolist() == [1.0, 1.0]


def test_a_label_by_event_is_for_that_entity_at_that_time(traffic: Traffic) -> None:
    wrong_time = traffic.label_by_event(1, event_time=LIVE_FROM + 2 * HOUR)
    traffic.segment(traffic.prediction(1), wrong_time, traffic.label_by_event(1, entity="E9"))
    traffic.take()
    assert traffic.labels() == {}
    traffic.segment(traffic.label_by_event(1, 0))
    traffic.take()
    assert traffic.labels() == {"r1": 0.0}


def test_a_request_without_entity_takes_no_label_by_event(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1, entity=None), traffic.label_by_event(1))
    traffic.take()
    assert traffic.labels() == {}


def test_another_metric_is_kept_and_changes_no_window(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1))
    traffic.take()
    traffic.segment(traffic.label(1, 3.5, name="revenue"), traffic.label_by_event(1, "good", name="feeling"))
    assert traffic.take() == {}
    parts = traffic.stores.lake.tables("delay", f"traffic/metrics/{window(0)}")
    kept = [
        traffic.stores.lake.read_arrow("delay", f"traffic/metrics/{window(0)}/{part}").to_pylist() for part in parts
    ]
    assert {(one["name"], one["number"] or one["text"]) for [one] in kept} == {("revenue", 3.5), ("feeling", "good")}


def test_labels_may_be_text(tmp_path: Path) -> None:
    label = {"column": "late", "delay": "2h", "classes": ["early", "late", "on time"]}
    traffic = Traffic(tmp_path, task="multiclass", label=label)
    traffic.segment(traffic.prediction(1, output=(0.1, 0.2, 0.7)), traffic.prediction(30), traffic.label(1, "on time"))
    traffic.take()
    assert traffic.labels() == {"r1": "on time"}
    assert traffic.read(1)["label"].isna().all()
    assert [name for name in traffic.read(1) if name.startswith("output_")] == ["output_0", "output_1", "output_2"]


def test_ids_of_the_service_and_of_callers_are_found_in_old_windows(traffic: Traffic) -> None:
    own = str(uuid.UUID(int=(0x018DF000 << 96) | (7 << 76) | (2 << 62)))
    traffic.segment(
        traffic.prediction(1, id=own), traffic.prediction(2), traffic.prediction(60), traffic.prediction(90)
    )
    traffic.take()
    traffic.segment(traffic.label(1, id=own), traffic.label(2, 0))
    assert list(traffic.take()) == [window(0)]
    assert traffic.labels() == {own: 1.0, "r2": 0.0}
