"""Every kind of request, answered or refused, and what of it is on record."""

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_assets.serving.app import ServingApp
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import LogError
from mlops_assets_tests.serving.factory import Task, answered_outputs, release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest

FEATURES = {"temp": 50.5, "seats": 100, "holiday": False, "carrier": "AA", "air port": "JFK", "distance": 1000}
ROW = "there are features, id, entity, event_time, probe"
NAMES = f"there are {', '.join(small_model().features)}"
LABEL = "there are value, id, entity, event_time, name, observed_at, revision"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    release(home, small_model())
    return home


@pytest.fixture
def app(home: Home) -> Iterator[AppUnderTest]:
    with AppUnderTest(home, max_body_bytes=20_000, max_rows=20) as app:
        yield app


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppUnderTest]:
    """For requests that leave nothing behind that another test would look at."""
    home = Home(tmp_path_factory.mktemp("shared"))
    release(home, small_model())
    with AppUnderTest(home, max_body_bytes=20_000, max_rows=20) as app:
        yield app


def error_of(response: Any) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()["error"]
    return body


class TestAnswers:
    def test_one_row_is_answered_with_all_that_identifies_it(self, app: AppUnderTest):
        answer = app.predict(FEATURES).json()

        assert list(answer) == [
            "prediction_id", "model", "model_version", "release", "role", "prediction", "probability", "imputed", "out_of_domain",
        ]  # fmt: skip
        assert (answer["model"], answer["model_version"], answer["release"], answer["role"]) == (
            "delay",
            1,
            1,
            "champion",
        )
        assert answer["prediction"] == int(answer["probability"] >= 0.4)
        assert answer["imputed"] == answer["out_of_domain"] == []
        assert uuid.UUID(answer["prediction_id"]).version == 7

    @pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
    @pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "scikit-learn"])
    def test_answers_equal_the_pipelines(self, tmp_path: Path, task: Task, compiled: bool):
        model = small_model("delay", task, compiled=compiled)
        home = Home(tmp_path)
        release(home, model)
        with AppUnderTest(home) as app:
            rows = model.request_rows(300)
            many = app.post("/v1/models/delay/predict", {"rows": [{"features": row} for row in rows]}).json()
            one = app.predict(rows[0]).json()

        answered = np.array([answered_outputs(model, answer) for answer in many["predictions"]])
        np.testing.assert_allclose(answered, model.expected(300), rtol=0, atol=1e-12)
        np.testing.assert_allclose([answered_outputs(model, one)], model.expected(1), rtol=0, atol=1e-12)
        assert any(answer["imputed"] for answer in many["predictions"])

    def test_the_most_probable_of_many_classes_is_answered(self, tmp_path: Path):
        model = small_model("delay", "multiclass")
        home = Home(tmp_path)
        release(home, model)
        with AppUnderTest(home) as app:
            answer = app.predict(model.request_rows(1)[0]).json()

        assert set(answer["probabilities"]) == {"early", "late", "on time"}
        assert answer["prediction"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert "probability" not in answer

    def test_many_rows_are_answered_in_order(self, app: AppUnderTest):
        rows = [
            {"features": {**FEATURES, "distance": distance}, "id": f"row-{distance}"} for distance in (100, 2000, 700)
        ]

        answer = app.post("/v1/models/delay/predict", {"rows": rows}).json()

        assert [row["prediction_id"] for row in answer["predictions"]] == ["row-100", "row-2000", "row-700"]
        assert (answer["model"], answer["model_version"], answer["release"], answer["role"]) == (
            "delay",
            1,
            1,
            "champion",
        )

    @pytest.mark.parametrize("absent", [{}, {"temp": None}], ids=["left out", "null"])
    def test_a_missing_value_is_imputed_as_in_training(self, app: AppUnderTest, absent: dict[str, None]):
        features = {name: value for name, value in FEATURES.items() if name != "temp"} | absent

        answer = app.predict(features).json()

        median = small_model().manifest.imputation["temp"].value
        assert answer["imputed"] == ["temp"]
        assert answer["probability"] == app.predict({**FEATURES, "temp": median}).json()["probability"]

    @pytest.mark.parametrize(
        ("feature", "value"),
        [("carrier", "never seen"), ("carrier", ""), ("temp", 1e6), ("distance", -1), ("air port", "BOS")],
    )
    def test_a_value_outside_the_known_domain_is_answered_flagged_and_logged(
        self, app: AppUnderTest, feature: str, value: Any
    ):
        response = app.predict({**FEATURES, feature: value})

        assert response.status_code == 200
        assert response.json()["out_of_domain"] == [feature]
        assert app.predictions()[-1].out_of_domain == (feature,)

    def test_a_whole_number_may_be_written_with_a_point(self, app: AppUnderTest):
        plain, pointed = app.predict(FEATURES), app.request("POST", "/v1/models/delay/predict", _with_seats(b"100.0"))
        assert plain.json()["probability"] == pointed.json()["probability"]

    def test_the_callers_own_id_entity_and_time_are_kept(self, app: AppUnderTest):
        answer = app.predict(FEATURES, id="my-1", entity="UA 12", event_time="2013-03-01T08:00:00-05:00").json()

        record = app.predictions()[-1]
        assert answer["prediction_id"] == record.id == "my-1"
        assert record.entity == "UA 12"
        assert record.event_time == datetime(2013, 3, 1, 13, tzinfo=UTC)


class TestRecords:
    def test_an_answer_is_on_record_as_it_was_given(self, app: AppUnderTest):
        answer = app.predict({**FEATURES, "temp": None}).json()

        (record,) = app.predictions()
        assert record.id == answer["prediction_id"]
        assert record.features == (None, 100.0, False, "AA", "JFK", 1000.0)
        assert record.output == (1 - answer["probability"], answer["probability"])
        assert (record.version, record.release, record.rollout, record.role) == (1, 1, "r-1", "champion")
        assert record.imputed == ("temp",)
        assert record.status == 200
        assert record.event_time == record.served_at
        assert record.latency_ms > 0

    def test_each_of_many_rows_is_on_record(self, app: AppUnderTest):
        answer = app.post("/v1/models/delay/predict", {"rows": [{"features": FEATURES}] * 7}).json()
        assert [record.id for record in app.predictions()] == [row["prediction_id"] for row in answer["predictions"]]

    def test_a_refused_request_leaves_a_record_without_features(self, app: AppUnderTest):
        app.predict({**FEATURES, "temp": "warm"})

        (record,) = app.predictions()
        assert record.status == 422
        assert record.features == record.output == ()
        assert record.error is not None
        assert "features.temp" in record.error

    def test_nothing_is_answered_that_could_not_be_logged(self, app: AppUnderTest):
        app.runtime._log.close()  # type: ignore[union-attr]

        response = app.predict(FEATURES)
        feedback = app.post("/v1/models/delay/feedback", {"id": "a", "value": 1})

        assert response.status_code == feedback.status_code == 503
        assert error_of(response)["code"] == "not_logged"
        assert response.headers["retry-after"] == "1"


def _with_seats(text: bytes) -> bytes:
    return (
        b'{"features":{"temp":50.5,"seats":%s,"holiday":false,"carrier":"AA","air port":"JFK","distance":1000}}' % text
    )


BAD_ROWS = [
    ({"temp": "50"}, 422, "features.temp"),
    ({"temp": True}, 422, "features.temp"),
    ({"temp": [1]}, 422, "features.temp"),
    ({"seats": 3.5}, 422, "features.seats"),
    ({"seats": "3"}, 422, "features.seats"),
    ({"holiday": 1}, 422, "features.holiday"),
    ({"carrier": 7}, 422, "features.carrier"),
    ({"distance": None}, 422, "features.distance"),
    ({"unknown": 1}, 422, "features.unknown"),
]


class TestRefusals:
    @pytest.mark.parametrize(("change", "status", "field"), BAD_ROWS)
    def test_a_bad_value_is_refused_naming_its_field(
        self, shared_app: AppUnderTest, change: dict[str, Any], status: int, field: str
    ):
        one = shared_app.predict({**FEATURES, **change})
        rows = [{"features": FEATURES}, {"features": {**FEATURES, **change}}]
        many = shared_app.post("/v1/models/delay/predict", {"rows": rows})

        assert one.status_code == many.status_code == status
        assert error_of(one)["field"] == field
        assert error_of(many)["field"] == f"rows[1].{field}"

    def test_a_required_feature_left_out_is_named(self, shared_app: AppUnderTest):
        response = shared_app.predict({"temp": 1})
        assert (response.status_code, error_of(response)["field"]) == (422, "features.distance")
        assert error_of(response)["code"] == "missing_field"

    @pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
    def test_what_is_no_finite_number_is_refused_naming_its_field(self, shared_app: AppUnderTest, text: bytes):
        one = shared_app.post("/v1/models/delay/predict", _with_seats(text))
        many = shared_app.post(
            "/v1/models/delay/predict", b'{"rows":[' + _with_seats(b"1") + b"," + _with_seats(text) + b"]}"
        )

        assert (one.status_code, error_of(one)["field"]) == (422, "features.seats")
        assert (many.status_code, error_of(many)["field"]) == (422, "rows[1].features.seats")

    @pytest.mark.parametrize(
        "body",
        [b"", b"  ", b"{", b"not json", b'{"features":{"distance":1}', b'{"features":{"carrier":"\xff"}}', b"nan"],
    )
    def test_malformed_json_is_refused(self, shared_app: AppUnderTest, body: bytes):
        response = shared_app.post("/v1/models/delay/predict", body)
        assert (response.status_code, error_of(response)["code"]) == (400, "malformed_json")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "features"),
            ([], None),
            ("text", None),
            ({"features": 3}, "features"),
            ({"features": FEATURES, "extra": 1}, "extra"),
            ({"features": FEATURES, "rows": []}, "rows"),
            ({"rows": [], "id": "x"}, "id"),
            ({"rows": []}, "rows"),
            ({"rows": {}}, "rows"),
            ({"rows": [3]}, "rows[0]"),
            ({"features": FEATURES, "id": ""}, "id"),
            ({"features": FEATURES, "id": "x" * 201}, "id"),
            ({"features": FEATURES, "id": 7}, "id"),
            ({"features": FEATURES, "event_time": "2013-03-01T08:00:00"}, "event_time"),
            ({"features": FEATURES, "event_time": "yesterday"}, "event_time"),
            ({"features": FEATURES, "event_time": "0001-01-01T00:00:00+14:00"}, "event_time"),
            ({"rows": [{"features": FEATURES, "id": "a"}] * 2}, "rows[1].id"),
        ],
    )
    def test_a_body_of_another_form_is_refused_naming_its_field(
        self, shared_app: AppUnderTest, body: Any, field: str | None
    ):
        response = shared_app.post("/v1/models/delay/predict", body)
        assert (response.status_code, error_of(response).get("field")) == (422, field)

    @pytest.mark.parametrize(
        ("route", "body", "field", "known"),
        [
            ("predict", {"features": FEATURES, "entitiy": "a"}, "entitiy", f"{ROW}; or rows alone, a list"),
            ("predict", {"id": "a", "rows": [{"features": FEATURES}]}, "rows", f"{ROW}; or rows alone, a list"),
            ("predict", {"features": {**FEATURES, "wind": 3}}, "features.wind", NAMES),
            ("predict", {"rows": [{"features": FEATURES}, {"when": 1}]}, "rows[1].when", ROW),
            ("predict", {"rows": [{"features": {"wind": 3}}]}, "rows[0].features.wind", NAMES),
            ("predict", {"rows": [], "more": 1}, "more", "there is rows"),
            ("feedback", {"prediction_id": "a", "value": 1}, "prediction_id", f"{LABEL}; or labels alone, a list"),
            ("feedback", {"labels": [{"id": "a", "value": 1, "label": 1}]}, "labels[0].label", LABEL),
            ("explain", {"features": FEATURES, "prediction_id": "a"}, "prediction_id", ROW),
            ("explain", {"prediction_id": "a", "features": FEATURES}, "features", "there is prediction_id"),
        ],
    )
    def test_an_unknown_field_is_refused_with_those_that_there_are(
        self, shared_app: AppUnderTest, route: str, body: Any, field: str, known: str
    ):
        response = shared_app.post(f"/v1/models/delay/{route}", body)
        assert response.status_code == 422
        message = f"there is no such field; {known}"
        assert error_of(response) == {"code": "unknown_field", "message": message, "field": field}

    def test_too_large_a_body_is_refused(self, shared_app: AppUnderTest):
        response = shared_app.post("/v1/models/delay/predict", b" " * 20_001)
        assert (response.status_code, error_of(response)["code"]) == (413, "too_large")

    def test_a_body_that_grows_too_large_is_refused_without_its_length_being_told(self, shared_app: AppUnderTest):
        async def chunks():
            for _ in range(30):
                yield b" " * 1000

        response = shared_app.request("POST", "/v1/models/delay/predict", chunks())  # type: ignore[arg-type]
        assert response.status_code == 413

    def test_too_many_rows_are_refused(self, shared_app: AppUnderTest):
        response = shared_app.post("/v1/models/delay/predict", {"rows": [{"features": FEATURES}] * 21})
        assert (response.status_code, error_of(response)["code"]) == (413, "too_many_rows")

    def test_an_unknown_model_is_refused(self, shared_app: AppUnderTest):
        for path in ("predict", "feedback"):
            assert shared_app.post(f"/v1/models/other/{path}", {"features": {}}).status_code == 404
        response = shared_app.get("/v1/models/other/schema")
        assert (response.status_code, error_of(response)["code"]) == (404, "unknown_model")

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("GET", "/v1/models/delay/predict", "POST"),
            ("PUT", "/v1/models/delay/feedback", "POST"),
            ("POST", "/v1/models", "GET, HEAD"),
            ("DELETE", "/v1/models/delay/schema", "GET, HEAD"),
        ],
    )
    def test_a_wrong_method_is_refused_naming_the_right_one(
        self, shared_app: AppUnderTest, method: str, path: str, allow: str
    ):
        response = shared_app.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, allow)
        assert error_of(response)["code"] == "wrong_method"

    @pytest.mark.parametrize(
        "headers", [{"content-type": "text/plain"}, {"content-type": "application/json", "content-encoding": "gzip"}]
    )
    def test_a_body_that_is_not_plain_json_is_refused(self, shared_app: AppUnderTest, headers: dict[str, str]):
        assert shared_app.request("POST", "/v1/models/delay/predict", b"{}", **headers).status_code == 415

    @pytest.mark.parametrize(
        "path", ["/nothing", "/v1", "/v1/models/", "/v1/models/delay", "/v1/models/delay/predict/", "/docs"]
    )
    def test_an_unknown_path_ends_here(self, shared_app: AppUnderTest, path: str):
        response = shared_app.get(path)
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found")


class TestFeedback:
    @pytest.mark.parametrize("value", [1, 1.0, True])
    def test_a_label_is_on_record_as_the_class_that_it_is(self, app: AppUnderTest, value: Any):
        assert app.post("/v1/models/delay/feedback", {"id": "a", "value": value}).json() == {"accepted": 1}

        (label,) = app.labels()
        assert (label.id, label.name, label.revision) == ("a", "outcome", 0)
        assert type(label.value) is int
        assert label.value == 1
        assert label.observed_at == label.received_at

    def test_many_labels_are_one_request(self, app: AppUnderTest):
        time = "2013-03-01T00:00:00Z"
        labels = [
            {"id": "a", "value": 0, "observed_at": time, "revision": 2},
            {"entity": "UA 12", "event_time": time, "value": 1},
            {"id": "a", "name": "revenue", "value": 12.5},
        ]

        assert app.post("/v1/models/delay/feedback", {"labels": labels}).json() == {"accepted": 3}

        first, second, third = app.labels()
        assert (first.observed_at, first.revision) == (datetime(2013, 3, 1, tzinfo=UTC), 2)
        assert (second.id, second.entity, second.event_time) == (None, "UA 12", datetime(2013, 3, 1, tzinfo=UTC))
        assert (third.name, third.value) == ("revenue", 12.5)

    @pytest.mark.parametrize(
        ("label", "field"),
        [
            ({"id": "a", "value": 2}, "value"),
            ({"id": "a", "value": "1"}, "value"),
            ({"id": "a", "value": None}, "value"),
            ({"id": "a", "value": 2**63, "name": "revenue"}, "value"),
            ({"id": "a"}, "value"),
            ({"value": 1}, "id"),
            ({"value": 1, "entity": "UA 12"}, "id"),
            ({"value": 1, "id": "a", "entity": "UA 12"}, "id"),
            ({"id": "a", "value": 1, "revision": -1}, "revision"),
            ({"id": "a", "value": 1, "observed_at": "2013-03-01"}, "observed_at"),
            ({"id": "a", "value": 1, "observed_at": "0001-01-01T00:00:00+14:00"}, "observed_at"),
            ({"id": "a", "value": 1, "nonsense": 1}, "nonsense"),
        ],
    )
    def test_a_bad_label_is_refused_with_all_that_came_with_it(
        self, app: AppUnderTest, label: dict[str, Any], field: str
    ):
        """A whole number that the log cannot hold was once answered with 500."""
        one = app.post("/v1/models/delay/feedback", label)
        many = app.post("/v1/models/delay/feedback", {"labels": [{"id": "b", "value": 1}, label]})

        assert (one.status_code, error_of(one)["field"]) == (422, field)
        assert (many.status_code, error_of(many)["field"]) == (422, f"labels[1].{field}")
        assert app.labels() == []

    @pytest.mark.parametrize("route", ["predict", "feedback"])
    def test_text_that_is_no_utf8_is_refused_in_words(self, shared_app: AppUnderTest, route: str):
        for body in (b'{"id":"\xff"}', b'{"\xff":1}', b'{"rows":[{"id":"\xc3("}]}', b'{"labels":[{"id":"\xc3("}]}'):
            response = shared_app.post(f"/v1/models/delay/{route}", body)
            assert 400 <= response.status_code < 500
            message = error_of(response)["message"]
            assert message == "the body is not UTF-8 text" or message.startswith("there is no such field; there ")

    @pytest.mark.parametrize(("value", "status"), [(12, 200), (-3.5, 200), (True, 422), ("12", 422), (10**400, 422)])
    def test_a_regressions_label_is_a_number(self, tmp_path: Path, value: Any, status: int):
        home = Home(tmp_path)
        release(home, small_model("delay", "regression"))
        with AppUnderTest(home) as app:
            assert app.post("/v1/models/delay/feedback", {"id": "a", "value": value}).status_code == status


class TestDocuments:
    def test_the_models_in_service_are_listed(self, shared_app: AppUnderTest):
        answer = shared_app.get("/v1/models").json()
        (model,) = answer["models"]
        assert (model["model"], model["version"], model["release"], model["role"]) == ("delay", 1, 1, "champion")
        assert model["compiled"] is True
        assert answer["errors"] == {}

    def test_the_schema_describes_each_feature(self, shared_app: AppUnderTest):
        row = shared_app.get("/v1/models/delay/schema").json()["$defs"]["row"]
        features = row["properties"]["features"]
        assert list(features["properties"]) == list(small_model().features)
        assert features["required"] == ["distance"]
        assert features["properties"]["temp"]["type"] == ["number", "null"]
        assert features["properties"]["carrier"]["x-known-levels"] == ["AA", "B6", "UA"]

    def test_openapi_holds_our_routes_and_the_page_needs_no_other_host(self, shared_app: AppUnderTest):
        document = shared_app.get("/openapi.json").json()
        assert {"/v1/models", "/v1/models/delay/predict", "/v1/models/delay/feedback", "/readyz"} <= set(
            document["paths"]
        )
        assert shared_app.get("/docs.json").json() == document
        page = shared_app.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "http" not in page.text

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/metrics", "/static_content/swagger-ui.css"])
    def test_what_bentoml_has_is_bentomls_to_answer(self, shared_app: AppUnderTest, path: str):
        assert shared_app.get(path).text == f"inner {path}"

    @pytest.mark.parametrize("path", ["/static_content/", "/static_content/x.css", "/static_content/swagger-ui.css/x"])
    def test_paths_that_it_would_only_count_do_not_reach_it(self, shared_app: AppUnderTest, path: str):
        assert shared_app.get(path).status_code == 404


class TestNothingLoaded:
    def test_without_a_release_the_service_is_ready_and_says_503(self, tmp_path: Path):
        with AppUnderTest(Home(tmp_path)) as app:
            assert app.get("/readyz").status_code == 200
            response = app.predict(FEATURES)
            assert (response.status_code, error_of(response)["code"]) == (503, "not_loaded")
            assert "retry-after" in response.headers
            assert app.get("/v1/models").json()["models"] == []


def test_a_home_that_cannot_be_written_to_fails_the_start(home: Home):
    """uvicorn serves on without a lifespan when it raises; only when told of the failure does it exit."""
    home.prediction_log.write_text("not a folder")
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def start() -> None:
        async def receive() -> dict[str, str]:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append(message)

        runtime = ServingRuntime(ServingSettings(home), home.root / "nothing carried")
        await ServingApp(inner, runtime)({"type": "lifespan"}, receive, send)

    with pytest.raises((OSError, LogError)):
        asyncio.run(start())
    assert sent[0]["type"] == "lifespan.startup.failed"
