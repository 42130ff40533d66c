"""Explanations asked of the application: what they say, of which answers, and that they disturb nothing.

A stand-in attributes, which takes no seconds to start; the process that does is tried in `test_explain_http.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from mlops_assets.core.explaining import Attribution, Background, Question, Space
from mlops_assets.core.rollout import Challenger, Standby
from mlops_assets.core.scoring.load import load_scorer
from mlops_assets.serving.explain import Explainer
from mlops_assets.serving.explain_process import Asking, Lookup
from mlops_assets.stores.api_keys import ApiKeyStore, Permission
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.log_search import Limits, Search
from mlops_assets.stores.prediction_log import PredictionLog
from mlops_assets_tests.serving.explained import explained_model
from mlops_assets_tests.serving.factory import Task, release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest
from mlops_assets_tests.serving.test_plans_obeyed import changed
from mlops_assets_tests.serving.trials import Failing, break_version, release_of
from mlops_assets_tests.stores.examples import prediction as example
from mlops_assets_tests.stores.prediction_log.segments import begun_at

Ask = Callable[[Question], Attribution]

PATH = "/v1/models/delay/explain"
FEATURES = {"temp": 50.5, "seats": 100, "holiday": False, "carrier": "AA", "air port": "JFK", "distance": 1000}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    release(home, explained_model())
    return home


@pytest.fixture
def app(home: Home) -> Iterator[AppUnderTest]:
    with running(home) as app:
        yield app


@contextmanager
def running(home: Home, ask: Ask | None = None, **settings: Any) -> Iterator[AppUnderTest]:
    """The application, with a stand-in for the process that attributes."""
    with AppUnderTest(home, **settings) as app:
        explainer = app.runtime.explainer = explainer_of(home, ask or one_after_the_other)
        yield app
        explainer.close()


def explainer_of(home: Home, ask: Ask, is_starting: bool = False, **options: Any) -> Explainer:
    return explainer_by(home, StandIn(ask, is_starting), **options)


def explainer_by(home: Home, asking: Asking, **options: Any) -> Explainer:
    return Explainer(BundleStore(home.bundles).get, PredictionLog(home.prediction_log), asking, **options)


@dataclass
class StandIn:
    """Does in this process what another does."""

    attribute: Ask
    is_starting: bool = False

    def search(self, lookup: Lookup) -> Search:
        return PredictionLog(Path(lookup.folder)).search(lookup.prediction_id, lookup.limits)


def one_after_the_other(question: Question) -> Attribution:
    """The first background row becomes the row to be explained, one value after the other: no Shapley values, but they add up."""
    scorer = load_scorer(question.manifest, question.files)
    background = Background.from_json(question.files["background.json"]).without(question.without, scorer.features)
    mixed = [(*question.row[:at], *background.rows[0][at:]) for at in range(len(question.row) + 1)]
    answers = scorer.score_rows(mixed)
    output = 0 if question.manifest.task == "regression" else int(answers[-1].argmax())
    values = answers[:, output]
    space: Space = "value" if question.manifest.task == "regression" else "probability"
    return Attribution(
        space, output, float(values[-1]), float(values[0]), tuple(np.diff(values).tolist()), tuple(answers[-1].tolist())
    )


def explained(app: AppUnderTest, **body: Any) -> dict[str, Any]:
    answer = app.post(PATH, body or {"features": FEATURES})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    total = sum(one["contribution"] for one in found["contributions"])
    assert found["base_value"] + total == pytest.approx(found["explained_value"], abs=1e-9)
    return found


def refused(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def by_feature(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["feature"]: one for one in found["contributions"]}


class TestOfARow:
    def test_it_is_answered_with_all_that_identifies_the_prediction(self, app: AppUnderTest):
        found = explained(app, features=FEATURES, id="my-1")
        predicted = app.predict(FEATURES).json()
        assert found["prediction_id"] == "my-1"
        same = ("model", "model_version", "release", "role", "prediction", "probability")
        assert {name: found[name] for name in same} == {name: predicted[name] for name in same}
        assert found["explained_class"] == predicted["prediction"]
        assert {name: one["value"] for name, one in by_feature(found).items()} == FEATURES
        sizes = [abs(one["contribution"]) for one in found["contributions"]]
        assert sizes == sorted(sizes, reverse=True)
        assert all(set(one) == {"feature", "value", "contribution"} for one in found["contributions"])

    @pytest.mark.parametrize("task", ["multiclass", "regression"])
    @pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "scikit-learn"])
    def test_every_kind_of_model_is_explained(self, tmp_path: Path, task: Task, compiled: bool):
        home = Home(tmp_path)
        release(home, explained_model("delay", task, compiled=compiled))
        with running(home) as app:
            found = explained(app)
            predicted = app.predict(FEATURES).json()
        assert found["prediction"] == predicted["prediction"]
        if task == "regression":
            assert (found["space"], found["explained_value"]) == ("value", found["prediction"])
            assert "explained_class" not in found
        else:
            assert (found["space"], found["explained_class"]) == ("probability", found["prediction"])
            assert found["explained_value"] == found["probabilities"][found["prediction"]]

    def test_what_was_filled_or_is_unknown_is_flagged(self, app: AppUnderTest):
        found = by_feature(explained(app, features={"distance": 1000, "carrier": "never seen", "temp": 1e6}))
        assert {name for name, one in found.items() if one.get("imputed")} == {"seats", "holiday", "air port"}
        assert {name for name, one in found.items() if one.get("out_of_domain")} == {"carrier", "temp"}
        assert (found["seats"]["value"], found["carrier"]["value"]) == (None, "never seen")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"features": {}}, "features.distance"),
            ({"features": {**FEATURES, "distance": "far"}}, "features.distance"),
            ({"features": FEATURES, "more": 1}, "more"),
            ({"features": FEATURES, "prediction_id": "x"}, "prediction_id"),
            ({"prediction_id": "x", "features": FEATURES}, "features"),
            ({"prediction_id": ""}, "prediction_id"),
            ({"rows": [{"features": FEATURES}]}, "rows"),
        ],
    )
    def test_what_does_not_fit_the_contract_is_refused(self, app: AppUnderTest, body: Any, field: str):
        answer = app.post(PATH, body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)

    def test_nothing_is_logged_or_counted_for_the_version(self, app: AppUnderTest):
        explained(app)
        app.post(PATH, {"features": {}})
        assert app.records() == []
        live = app.runtime.state.snapshot.models["delay"]
        assert live.counter.counts().answered == live.counter.counts().failed == 0

    def test_other_methods_models_and_bodies_are_refused_as_elsewhere(self, app: AppUnderTest):
        assert app.get(PATH).status_code == 405
        assert app.post("/v1/models/nobody/explain", {"features": FEATURES}).status_code == 404
        assert app.post(PATH, b"{").status_code == 400

    def test_it_is_in_the_openapi_document(self, app: AppUnderTest):
        document = app.get("/openapi.json").json()
        assert "`starting`" in document["paths"][PATH]["post"]["description"]
        assert {"200", "409", "501", "503"} <= set(document["paths"][PATH]["post"]["responses"])
        assert "409" not in document["paths"]["/v1/models/delay/predict"]["post"]["responses"]
        answered = set(explained(app))
        assert set(document["components"]["schemas"]["delay.Explanation"]["properties"]) == answered


class TestOnRecord:
    def test_an_answer_is_explained_as_it_was_given(self, app: AppUnderTest):
        predicted = app.predict(FEATURES, id="p-1").json()
        found = explained(app, prediction_id="p-1")
        assert found["prediction_id"] == "p-1"
        assert found["probability"] == predicted["probability"]
        assert found["contributions"] == explained(app)["contributions"]

    def test_the_version_that_gave_it_explains_it_while_it_is_loaded(self, app: AppUnderTest):
        app.predict(FEATURES, id="by-1")
        first = app.runtime.state.snapshot.models["delay"].bundle
        plan = release(app.home, explained_model(version=2))
        app.wait_for(lambda: app.predict(FEATURES).json()["release"] == plan.release)
        code, name, message = refused(app.post(PATH, {"prediction_id": "by-1"}))
        assert (code, name) == (409, "not_loaded")
        assert message == "version 1 gave this answer, and is not loaded any more: there is 2"

        changed(app, standby=Standby(1, first, datetime.now(UTC)))

        found = explained(app, prediction_id="by-1")
        assert (found["model_version"], found["release"], found["role"]) == (1, 1, "champion")
        assert explained(app)["model_version"] == 2

    def test_an_answer_of_a_canary_is_explained_by_it_and_a_shadow_by_nobody(self, app: AppUnderTest):
        second = release_of(app.home, explained_model(version=2))
        changed(app, challenger=Challenger(second.version, second.bundle, "canary", 1.0))
        app.predict(FEATURES, id="c-1", entity="N1")
        assert explained(app, prediction_id="c-1")["role"] == "challenger"
        changed(app, challenger=Challenger(second.version, second.bundle, "shadow", 1.0))
        app.predict(FEATURES, id="s-1", entity="N1")
        app.shadowed()
        assert {one.role for one in PredictionLog(app.home.prediction_log).find("s-1")} == {"champion", "shadow"}
        assert explained(app, prediction_id="s-1")["model_version"] == 1

    def test_values_that_were_not_trusted_then_add_nothing(self, app: AppUnderTest):
        app.predict(FEATURES, id="whole")
        changed(app, masked=("temp",))
        masked = app.predict(FEATURES, id="masked").json()
        assert masked["imputed"] == ["temp"]

        found = explained(app, prediction_id="masked")
        assert by_feature(found)["temp"] == {"feature": "temp", "value": 50.5, "contribution": 0.0, "imputed": True}
        assert found["probability"] == masked["probability"]
        assert by_feature(explained(app))["temp"]["contribution"] == 0.0
        # What was answered before the plan changed went by the value.
        assert "imputed" not in by_feature(explained(app, prediction_id="whole"))["temp"]

    def test_an_unknown_id_is_404(self, app: AppUnderTest):
        code, name, message = refused(app.post(PATH, {"prediction_id": "nobody's"}))
        assert (code, name) == (404, "unknown_prediction")
        assert message == 'no answer of delay has the id "nobody\'s", or its record has been cleared away'

    def test_an_id_is_not_looked_for_without_end(self, app: AppUnderTest):
        """An unknown id had the whole log read, in the worker's own process."""
        app.predict(FEATURES, id="old")
        for minute in range(3):
            begun_at(app.home.prediction_log, datetime(2099, 1, 1, 12, minute, tzinfo=UTC), example())
        explainer = app.runtime.explainer = explainer_of(app.home, one_after_the_other, look_back=Limits(segments=2))
        code, name, message = refused(app.post(PATH, {"prediction_id": "old"}))
        assert (code, name) == (404, "unknown_prediction")
        assert message.startswith("no answer of delay has the id 'old' in what was logged from 2099-01-01 12:01:00Z on")
        assert message.endswith("`mlops-assets trace` looks through the whole log")
        explainer.close()

        explainer = app.runtime.explainer = explainer_of(app.home, one_after_the_other, look_back=Limits(seconds=-1))
        answer = app.post(PATH, {"prediction_id": "old"})
        assert refused(answer)[:2] == (503, "not_found_yet")
        assert answer.headers["retry-after"] == "5"
        explainer.close()

    def test_an_id_made_by_the_service_is_found_however_old_it_is(self, app: AppUnderTest):
        made = app.predict(FEATURES).json()["prediction_id"]
        for minute in range(3):
            begun_at(app.home.prediction_log, datetime(2099, 1, 1, 12, minute, tzinfo=UTC), example())
        explainer = app.runtime.explainer = explainer_of(app.home, one_after_the_other, look_back=Limits(segments=1))
        assert explained(app, prediction_id=made)["prediction_id"] == made
        explainer.close()

    def test_a_log_that_cannot_be_read_is_503(self, app: AppUnderTest):
        (app.home.prediction_log / "20130301T000000000000Z-w.sealed").mkdir()
        code, name, message = refused(app.post(PATH, {"prediction_id": "x"}))
        assert (code, name) == (503, "not_readable")
        assert "cannot be searched" in message

    def test_an_id_of_another_model_is_404(self, app: AppUnderTest):
        release(app.home, small_model("air", "regression"))
        app.wait_for(lambda: app.predict(FEATURES, "air", id="air-1").status_code == 200)
        assert refused(app.post(PATH, {"prediction_id": "air-1"}))[:2] == (404, "unknown_prediction")

    def test_a_request_without_an_answer_is_409(self, app: AppUnderTest):
        app.predict({})
        (failure,) = app.predictions()
        code, name, message = refused(app.post(PATH, {"prediction_id": failure.id}))
        assert (code, name) == (409, "not_explainable")
        assert "answered 422" in message

    def test_a_constant_goes_by_no_feature(self, app: AppUnderTest):
        changed(app, fallback_value=0.25)
        break_version(app, "champion", Failing())
        assert app.predict(FEATURES, id="constant").json()["role"] == "fallback"
        code, name, message = refused(app.post(PATH, {"prediction_id": "constant"}))
        assert (code, name) == (409, "not_explainable")
        assert "a constant was answered" in message

    def test_a_retired_model_is_410_and_one_that_has_fallen_back_409(self, app: AppUnderTest):
        changed(app, fallen_back=True, fallback_value=0.25)
        assert refused(app.post(PATH, {"features": FEATURES}))[:2] == (409, "not_explainable")
        changed(app, fallen_back=False, retired="by a test")
        assert refused(app.post(PATH, {"features": FEATURES}))[:2] == (410, "retired")

    def test_an_answer_that_is_not_given_again_is_not_explained(self, app: AppUnderTest):
        app.predict(FEATURES, id="p-1")
        (record,) = app.predictions()
        otherwise = msgspec.structs.replace(record, id="p-2", output=(0.5, 0.5))
        app._runner.run(app.runtime.append([otherwise]))
        code, name, message = refused(app.post(PATH, {"prediction_id": "p-2"}))
        assert (code, name) == (409, "not_explainable")
        assert "does not answer this row today as is on record" in message


class TestOldBundles:
    def test_one_without_background_is_409_with_the_remedy(self, tmp_path: Path):
        home = Home(tmp_path)
        release(home, small_model())
        with AppUnderTest(home) as app:
            code, name, message = refused(app.post(PATH, {"features": FEATURES}))
        assert (code, name) == (409, "not_explainable")
        assert message.startswith("an answer of version 1 of delay cannot be explained: its bundle holds no rows")
        assert message.endswith("train the model again")


class TestKeys:
    @pytest.fixture
    def app(self, home: Home) -> Iterator[AppUnderTest]:
        with running(home, auth="keys") as app:
            yield app

    @pytest.mark.parametrize(
        ("scope", "of_a_row", "on_record"),
        [("predict", 200, 403), ("explain", 403, 404), ("feedback", 403, 403), ("admin", 403, 403), (None, 401, 401)],
    )
    def test_who_may_predict_may_have_a_row_explained_and_nobodys_answer(
        self, app: AppUnderTest, scope: Permission | None, of_a_row: int, on_record: int
    ):
        """A key that may predict could read any answer whose id it knew."""
        store, headers = ApiKeyStore(app.home.root), {"content-type": "application/json"}
        if scope is not None:
            headers["x-api-key"] = store.create("test", (scope,), "user:test", datetime.now(UTC))[1]
            app.wait_for(lambda: app.request("GET", "/v1/models", **headers).status_code == 200)
        row = app.request("POST", PATH, b'{"features":{"distance":1000}}', **headers)
        answer = app.request("POST", PATH, b'{"prediction_id":"somebody\'s"}', **headers)
        assert (row.status_code, answer.status_code) == (of_a_row, on_record)
        if scope == "predict":
            assert "has not the scope 'explain'" in refused(answer)[2]
