"""Explanations over real HTTP, made by the process that is there for them."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from mlops_assets.core.contract import raw_rows
from mlops_assets.core.explaining import BACKGROUND, CannotExplain, NotInstalled, Question
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.operations.supervise import running_service
from mlops_assets.serving.explain_process import ExplainerFailed, ExplainProcess, Lookup
from mlops_assets.stores.home import Home
from mlops_assets.stores.log_search import Limits, Search
from mlops_assets.stores.prediction_log import LogError, PredictionLog
from mlops_assets_tests.serving.explained import explained_model
from mlops_assets_tests.serving.factory import release
from mlops_assets_tests.waiting import wait_until

pytestmark = pytest.mark.slow

MODEL = explained_model()
ROWS = MODEL.request_rows(20)
PREDICT, EXPLAIN = "/v1/models/delay/predict", "/v1/models/delay/explain"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("explain"))
    release(home, MODEL)
    release(home, explained_model("air", "regression", compiled=False))
    return home


@pytest.fixture(scope="module")
def client(home: Home) -> Iterator[httpx.Client]:
    with running_service(home) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


def explained(client: httpx.Client, body: dict[str, Any], path: str = EXPLAIN) -> dict[str, Any]:
    """The first is answered 503 where the process takes long to start, as a caller would be told to come back."""
    deadline = time.monotonic() + 550
    while (answered := client.post(path, json=body)).status_code == 503 and time.monotonic() < deadline:
        assert answered.headers["retry-after"] == "5"
    assert answered.status_code == 200, answered.text
    found: dict[str, Any] = answered.json()
    total = sum(one["contribution"] for one in found["contributions"])
    assert found["base_value"] + total == pytest.approx(found["explained_value"], abs=1e-9)
    return found


def test_predictions_go_on_while_explanations_are_made(client: httpx.Client, home: Home):
    """The first one too, for which a process is started and a large library imported."""
    worker = int(client.get("/v1/models").json()["worker"].rpartition("-")[2])
    before = psutil.Process(worker).memory_info().rss
    predicted = 0
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as other:
        asked = pool.submit(explained, other, {"features": ROWS[0]})
        while not asked.done():
            assert client.post(PREDICT, json={"features": ROWS[predicted % 20]}).status_code == 200
            predicted += 1
    assert predicted > 20
    assert len(list(PredictionLog(home.prediction_log).records("delay"))) == predicted
    grown = psutil.Process(worker).memory_info().rss - before
    assert grown < 60 * 2**20, "the library is imported elsewhere"
    metrics = client.get("/metrics").text
    assert 'mlops_requests_total{model="delay",route="explain",status="200"}' in metrics


def test_an_answer_on_record_is_explained_and_so_is_a_model_that_is_not_compiled(client: httpx.Client):
    row = explained_model("air", "regression").request_rows(1)[0]
    predicted = client.post("/v1/models/air/predict", json={"features": row}).json()
    found = explained(client, {"prediction_id": predicted["prediction_id"]}, "/v1/models/air/explain")
    assert (found["space"], found["explained_value"]) == ("value", predicted["prediction"])


def test_answers_are_as_the_document_says(client: httpx.Client):
    predicted = client.post(PREDICT, json={"features": ROWS[0]}).json()
    operation = schemathesis.openapi.from_dict(client.get("/openapi.json").json())[EXPLAIN]["POST"]
    for body in ({"features": ROWS[1]}, {"prediction_id": predicted["prediction_id"]}):
        explained(client, body)
        answered = operation.Case(body=body, media_type="application/json").call(base_url=str(client.base_url))
        assert answered.status_code == 200
        operation.validate_response(answered)

    statuses: Counter[int] = Counter()

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: schemathesis.Case) -> None:
        answer = case.call(base_url=str(client.base_url))
        operation.validate_response(answer)
        statuses[answer.status_code] += 1

    ask()
    assert set(statuses) <= {200, 404, 422}, statuses
    assert statuses[200] > 5, statuses


def test_the_process_does_not_outlive_its_worker(tmp_path: Path):
    home = Home(tmp_path)
    release(home, MODEL)
    with running_service(home) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        with suppress(httpx.ReadTimeout):
            client.post(EXPLAIN, json={"features": ROWS[0]}, timeout=0.5)
        wait_until(lambda: _processes_of(client) != [], timeout_s=60)
        (process,) = _processes_of(client)
        psutil.Process(int(client.get("/v1/models").json()["worker"].rpartition("-")[2])).kill()
        wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, timeout_s=300)


def _processes_of(client: httpx.Client) -> list[psutil.Process]:
    worker = psutil.Process(int(client.get("/v1/models").json()["worker"].rpartition("-")[2]))
    return [one for one in worker.children() if "mlops_assets.serving.explain_process" in one.cmdline()]


def test_it_raises_what_is_raised_there_and_comes_back_when_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the library, which takes long to start."""
    (tmp_path / "shap.py").write_text("raise ImportError")
    (tmp_path / "log" / "20130301T000000000000Z-w.sealed").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    ask = ExplainProcess()
    for _ in range(2):
        with pytest.raises(NotInstalled, match=r"mlops-assets\[explain\]"):
            ask.attribute(question())
        with pytest.raises(ScorerError, match="is infinite"):
            ask.attribute(question(row=(float("inf"), *question().row[1:])))
        with pytest.raises(CannotExplain, match="train the model again"):
            ask.attribute(question(bundle="damaged", files={**MODEL.files, BACKGROUND: b"{}"}))
        assert ask.search(Lookup(str(tmp_path / "no log"), "x", Limits())) == Search()
        with pytest.raises(LogError, match="cannot be searched"):
            ask.search(Lookup(str(tmp_path / "log"), "x", Limits()))
        assert ask._process is not None
        ask._process.kill()

    ask._work_seconds = 0.0
    with pytest.raises(ExplainerFailed, match="took more than 0 s"):
        ask.attribute(question(bundle="another"))
    assert ask._process is None
    ask.close()
    with pytest.raises(ExplainerFailed, match="the service ends"):
        ask.attribute(question())


def question(**changes: Any) -> Question:
    row = raw_rows(MODEL.manifest.features, MODEL.fresh.head(1))[0]
    return replace(Question("b", MODEL.manifest, MODEL.files, (), row), **changes)
