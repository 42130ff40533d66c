"""What a drill works with, as far as no system has to run for it."""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.drills.caller import bodies_of
from mlops_assets.drills.data import NEW_PLACES, in_celsius, to_new_places, without
from mlops_assets.drills.stage import DrillFailed, Stage
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import small_model, small_spec


@dataclass
class NoSystem:
    """A system of which nothing runs."""

    stores: Stores
    url: str = "http://127.0.0.1:9"
    ground: Any = None
    lines: list[str] = field(default_factory=list)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    system = NoSystem(Stores(Home(tmp_path)))
    return Stage(small_spec(), system, system.lines.append)  # type: ignore[arg-type]


def test_waiting_gives_what_it_waited_for_or_says_what_has_not_come(stage: Stage):
    outcomes = iter([None, (), False, "there"])
    assert stage.wait(lambda: next(outcomes), "it comes", every_s=0) == "there"
    with pytest.raises(DrillFailed, match="not within 0 s: the sky falls"):
        stage.wait(lambda: None, "the sky falls", timeout_s=0)
    with pytest.raises(DrillFailed, match="nothing was trained"):
        stage.require(False, "nothing was trained")


def test_times_count_from_the_injection(stage: Stage):
    assert stage.times.since_injection(stage.times.resolved) is None
    stage.inject("the feed")
    assert stage.times.injected is not None
    stage.found("by the monitor", stage.times.injected + timedelta(seconds=3))
    assert stage.times.since_injection(stage.times.detected) == 3.0
    assert [step.what for step in stage.steps] == ["BROKEN: the feed", "found: by the monitor"]


def test_a_model_of_which_nothing_is_written_down_has_no_incident(stage: Stage):
    assert (stage.incident("drift"), stage.closed("drift"), stage.decided("retrain")) == (None, None, None)
    assert not stage.trainings()


def test_requests_with_ids_are_those_that_the_service_takes():
    model = small_model()
    rows = model.fresh.head(3)
    bodies = bodies_of(model.spec, rows, ["a", "b", "c"])
    assert [one["id"] for one in bodies] == ["a", "b", "c"]
    assert bodies[0]["entity"] == rows["flight"].iloc[0]
    assert bodies[0]["event_time"] == rows["at"].iloc[0].isoformat()
    sent = [{name: value for name, value in one["features"].items() if value is not None} for one in bodies]
    assert [set(one) for one in sent] == [set(one) for one in model.request_rows(3)]


def test_what_is_done_to_flights_leaves_the_rest_as_it_was():
    rows = small_model().fresh.assign(dewp=50.0, destination="ATL").astype({"destination": object})
    assert without(rows, ("temp",))["temp"].isna().all()
    assert in_celsius(rows)["dewp"].iloc[0] == pytest.approx(10)
    moved = to_new_places(rows)
    share = moved["destination"].isin(NEW_PLACES).mean()
    assert 0.08 < share < 0.22
    for changed in (without(rows, ("temp",)), moved):
        assert changed["distance"].equals(rows["distance"])
    assert (rows["destination"] == "ATL").all(), "what was given is not changed"
