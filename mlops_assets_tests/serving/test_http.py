"""The service over real HTTP, from source: one server for all tests of this file."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from mlops_assets.operations.supervise import running_service, wait_until_live
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import PredictionLog
from mlops_assets_tests.serving.factory import answered_outputs, release, small_model
from mlops_assets_tests.waiting import wait_until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("http"))
    release(home, small_model())
    release(home, small_model("air", "regression"))
    return home


@pytest.fixture(scope="module")
def client(home: Home) -> Iterator[httpx.Client]:
    with running_service(home) as url, httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(("name", "task"), [("delay", "binary"), ("air", "regression")])
def test_answers_equal_the_pipelines_and_are_on_record(client: httpx.Client, home: Home, name: str, task: str):
    model = small_model(name, task)  # type: ignore[arg-type]
    rows = model.request_rows(40)

    answers = [client.post(f"/v1/models/{name}/predict", json={"features": row}).json() for row in rows]

    outputs = np.array([answered_outputs(model, answer) for answer in answers])
    np.testing.assert_allclose(outputs, model.expected(40), rtol=0, atol=1e-12)
    logged = {record.id for record in PredictionLog(home.prediction_log).records(name)}
    assert {answer["prediction_id"] for answer in answers} <= logged


def test_feedback_is_on_record(client: httpx.Client, home: Home):
    assert client.post("/v1/models/air/feedback", json={"id": "p-1", "value": 101.5}).json() == {"accepted": 1}
    assert [record.value for record in PredictionLog(home.prediction_log).records("air") if record.id == "p-1"] == [
        101.5
    ]


def test_probes_metrics_and_pages_answer(client: httpx.Client):
    client.post("/v1/models/delay/predict", json={"features": {}})
    for path in ("/livez", "/readyz", "/", "/openapi.json", "/static_content/swagger-ui-bundle.js"):
        assert client.get(path).status_code == 200
    metrics = client.get("/metrics").text
    assert 'mlops_requests_total{model="delay",route="predict",status="422"}' in metrics
    assert 'mlops_model_info{model="delay"' in metrics
    assert "bentoml_service_request_duration_seconds" in metrics


def test_unknown_paths_leave_no_metric(client: httpx.Client):
    for number in range(20):
        assert client.get(f"/path/{number}").status_code == 404
    assert "/path/" not in client.get("/metrics").text


def test_too_large_a_body_is_refused(client: httpx.Client):
    assert client.post("/v1/models/delay/predict", content=b" " * (9 * 2**20)).status_code == 413


def test_a_new_release_is_answered_from_without_a_restart(client: httpx.Client, home: Home, tmp_path: Path):
    pid = client.get("/v1/models").json()["worker"]
    plan = release(home, small_model(version=2))

    assert wait_until_live(home, "delay", plan.release, timeout=60) == 1

    answer = client.post("/v1/models/delay/predict", json={"features": small_model().request_rows(1)[0]}).json()
    assert (answer["release"], answer["model_version"]) == (2, 2)
    wait_until(lambda: client.get("/v1/models").json()["worker"] == pid)
