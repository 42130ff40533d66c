"""What a worker does with a plan that masks features, falls back to a constant, or retires the model; and what it counts."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.service_counts import ServiceCounts
from mlops_assets.serving.state import Snapshot
from mlops_assets.stores.home import Home
from mlops_assets.stores.releases import ReleaseStore
from mlops_assets.stores.workers import LoadedRelease, WorkerStore
from mlops_assets_tests.serving.factory import Task, corrupt, release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest

FEATURES = {"temp": 50.5, "seats": 100, "holiday": False, "carrier": "AA", "air port": "JFK", "distance": 1000}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    release(home, small_model())
    return home


@pytest.fixture
def app(home: Home) -> Iterator[AppUnderTest]:
    with AppUnderTest(home) as app:
        yield app


def change(home: Home, model: str = "delay", **changes: Any) -> ReleasePlan:
    """Publish the plan in force once more with these changes."""
    store = ReleaseStore(home.releases)
    current = store.current(model)
    assert current is not None
    following = {"release": current.release + 1, "previous": current.release, "decided_at": datetime.now(UTC)}
    plan = msgspec.structs.replace(current, **{**following, **changes})
    store.publish(plan)
    return plan


def changed(app: AppUnderTest, **changes: Any) -> ReleasePlan:
    """Publish a change and wait until the worker has it, and has loaded or refused all whom it names."""
    plan = change(app.home, **changes)
    app.wait_for(lambda: _is_loaded(loaded(app.home), plan))
    return plan


def _is_loaded(report: LoadedRelease, plan: ReleasePlan) -> bool:
    """The champion answers with a new plan before the others are there, and a heartbeat may say so."""
    others = {"challenger": plan.challenger, "standby": plan.standby, "last_good": plan.last_good}
    named = {place for place, one in others.items() if one is not None}
    there = {place for place in others if getattr(report, place) is not None}
    return report.release == plan.release and named <= there | report.refused.keys()


def loaded(home: Home, model: str = "delay") -> LoadedRelease:
    (state,) = WorkerStore(home.workers).live(datetime.now(UTC), timedelta(seconds=60))
    return state.models[model]


class TestMasked:
    @pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "scikit-learn"])
    def test_a_masked_value_is_answered_as_if_it_had_not_been_sent(self, tmp_path: Path, compiled: bool):
        model = small_model(compiled=compiled)
        home = Home(tmp_path)
        release(home, model)
        rows = model.request_rows(60)
        without = [{name: value for name, value in row.items() if name not in ("temp", "carrier")} for row in rows]
        with AppUnderTest(home) as app:
            expected = [app.predict(row).json() for row in without]
            assert expected != [app.predict(row).json() for row in rows]
            changed(app, masked=("carrier", "temp"))
            answers = [app.predict(row).json() for row in rows]
            many = app.post("/v1/models/delay/predict", {"rows": [{"features": row} for row in rows]}).json()
        for answer, one, told in zip(answers, many["predictions"], expected, strict=True):
            same = {name: told[name] for name in ("prediction", "probability", "imputed", "out_of_domain")}
            assert {name: answer[name] for name in same} == same
            assert {name: one[name] for name in same} == same
            assert {"temp", "carrier"} <= set(answer["imputed"])

    def test_the_log_keeps_what_was_received_and_says_what_was_imputed(self, app: AppUnderTest):
        changed(app, masked=("temp", "distance"))
        answer = app.predict({**FEATURES, "temp": 1e6}).json()
        assert answer["imputed"] == ["temp", "distance"]
        assert answer["out_of_domain"] == [], "what is not believed is not judged either"
        (record,) = app.predictions()
        assert record.features == (1e6, 100.0, False, "AA", "JFK", 1000.0)
        assert record.imputed == ("temp", "distance")
        assert record.role == "champion"

    def test_values_count_again_when_the_mask_is_lifted(self, app: AppUnderTest):
        before = app.predict(FEATURES).json()
        changed(app, masked=("temp",))
        assert app.predict(FEATURES).json()["imputed"] == ["temp"]
        changed(app, masked=())
        after = app.predict(FEATURES).json()
        assert (after["probability"], after["imputed"]) == (before["probability"], [])
        assert app.runtime.state.snapshot.models["delay"].mask is None

    def test_a_masked_value_must_still_be_one(self, app: AppUnderTest):
        changed(app, masked=("temp",))
        assert app.predict({**FEATURES, "temp": "warm"}).status_code == 422

    def test_what_the_model_does_not_know_cannot_be_masked_and_the_former_plan_stays(self, app: AppUnderTest):
        change(app.home, masked=("wind",))
        app.wait_for(lambda: "delay" in app.get("/v1/models").json()["errors"])
        assert "knows no wind" in app.get("/v1/models").json()["errors"]["delay"]
        assert app.predict(FEATURES).json()["release"] == 1


class TestFallenBack:
    @pytest.mark.parametrize(
        ("task", "value", "outcome"),
        [
            ("binary", 0.41, {"prediction": 1, "probability": 0.41}),
            ("multiclass", "late", {"prediction": "late"}),
            ("regression", 12.5, {"prediction": 12.5}),
        ],
    )
    def test_the_constant_is_answered_and_logged_as_the_fallbacks(
        self, tmp_path: Path, task: Task, value: Any, outcome: dict[str, Any]
    ):
        home = Home(tmp_path)
        release(home, small_model("delay", task))
        with AppUnderTest(home) as app:
            changed(app, fallen_back=True, fallback_value=value)
            answer = app.predict({**FEATURES, "temp": None}).json()
            many = app.post("/v1/models/delay/predict", {"rows": [{"features": FEATURES}] * 3}).json()
            (model,) = app.get("/v1/models").json()["models"]
            records = app.predictions()
        assert answer["role"] == many["role"] == model["role"] == "fallback"
        for one in (answer, *many["predictions"]):
            assert outcome.items() <= one.items()
        assert {record.role for record in records} == {"fallback"}
        assert len({record.output for record in records}) == 1

    def test_a_request_must_still_fit_the_contract(self, app: AppUnderTest):
        changed(app, fallen_back=True, fallback_value=0.2)
        assert app.predict({"temp": "warm"}).status_code == 422

    def test_without_a_constant_the_plan_is_refused_and_the_model_answers_on(self, app: AppUnderTest):
        change(app.home, fallen_back=True)
        app.wait_for(lambda: "delay" in app.get("/v1/models").json()["errors"])
        assert app.predict(FEATURES).json()["role"] == "champion"


class TestRetired:
    def test_callers_are_told_that_it_is_gone_and_why(self, app: AppUnderTest):
        changed(app, retired="replaced by air_time_2")
        response = app.predict(FEATURES)
        assert response.status_code == 410
        assert response.json()["error"] == {
            "code": "retired",
            "message": "delay is out of service: replaced by air_time_2",
        }
        assert app.predictions() == [], "what is out of service is no traffic"
        assert app.get("/readyz").status_code == 200
        (model,) = app.get("/v1/models").json()["models"]
        assert model["retired"] == "replaced by air_time_2"

    def test_late_labels_are_still_taken(self, app: AppUnderTest):
        changed(app, retired="no use")
        assert app.post("/v1/models/delay/feedback", {"id": "a", "value": 1}).status_code == 200

    def test_it_answers_again_when_it_is_recovered(self, app: AppUnderTest):
        changed(app, retired="no use")
        changed(app, retired=None)
        assert app.predict(FEATURES).status_code == 200

    def test_a_worker_that_cannot_load_the_bundle_is_ready_and_says_gone(self, home: Home):
        plan = change(home, retired="no use")
        corrupt(home, plan.champion.bundle)
        with AppUnderTest(home) as app:
            assert app.get("/readyz").status_code == 200
            assert app.predict(FEATURES).status_code == 410
            assert loaded(home).release == plan.release
            assert app.get("/v1/models").json()["errors"] == {}


class TestCounts:
    def test_what_becomes_of_requests_is_reported_with_the_heartbeat(self, app: AppUnderTest):
        for _ in range(5):
            app.predict(FEATURES)
        app.predict({"temp": "warm"})
        break_scorer(app)
        for _ in range(3):
            assert app.predict(FEATURES).status_code == 500
        app.wait_for(lambda: loaded(app.home).counts.failed == 3)
        counts = loaded(app.home).counts
        assert (counts.answered, counts.failed, counts.shed) == (5, 3, 0)
        assert counts.slower[0] >= counts.slower[-1] == 0

    def test_a_new_plan_is_counted_from_nothing(self, app: AppUnderTest):
        app.predict(FEATURES)
        app.wait_for(lambda: loaded(app.home).counts.answered == 1)
        changed(app, masked=("temp",))
        assert loaded(app.home).counts == ServiceCounts()

    def test_what_cannot_be_logged_is_turned_away_and_no_failure_of_the_release(self, app: AppUnderTest):
        app.runtime._log.close()  # type: ignore[union-attr]
        assert app.predict(FEATURES).status_code == 503
        app.wait_for(lambda: loaded(app.home).counts.shed == 1)
        assert loaded(app.home).counts.failed == 0


def break_scorer(app: AppUnderTest) -> None:
    """Let the loaded model fail at every request, as a fault in its own code would."""

    class Failing:
        features, outputs = small_model().features, 2

        def score_rows(self, rows: Any) -> Any:
            raise RuntimeError("a fault")

        def score_row(self, row: Any) -> Any:
            return self.score_rows([row])[0].tolist()

        def warm_up(self) -> None:
            pass

    state = app.runtime.state
    broken = replace(state.snapshot.models["delay"], scorer=Failing())
    state.snapshot = Snapshot({"delay": broken}, {})
