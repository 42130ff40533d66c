"""A real server of two workers whose scorer has been made slow, asked by more callers than it can answer."""

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mlops_assets.operations.bento import SOURCE
from mlops_assets.operations.supervise import running_service
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import PredictionLog
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.waiting import wait_until

ROW = small_model().request_rows(1)[0]
PREDICT = "/v1/models/delay/predict"
CALLERS, REQUESTS = 24, 30

SLOW_SCORER = """
import os, time
from mlops_assets.core.scoring.scorer import CompiledScorer

score_row = CompiledScorer.score_row

def slowly(self, row):
    time.sleep(float(os.environ["SCORER_MS"]) / 1e3)
    return score_row(self, row)

CompiledScorer.score_row = slowly
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("overload"))
    release(home, small_model())
    return home


@pytest.fixture(scope="module")
def url(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("slow service")
    (folder / "service.py").write_text((SOURCE / "service.py").read_text() + SLOW_SCORER)
    environment = {"SCORER_MS": "5", "MLOPS_MAX_WAIT_MS": "12"}
    with running_service(home, workers=2, target=folder, ready_timeout=300, environment=environment) as url:
        yield url


def ask(url: str, _caller: int) -> list[tuple[int, str | None, str | None]]:
    """Status, prediction id and `Retry-After` of one caller's requests."""
    told = []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for _ in range(REQUESTS):
            answer = client.post(PREDICT, json={"features": ROW})
            told.append((answer.status_code, answer.json().get("prediction_id"), answer.headers.get("retry-after")))
    return told


def counted(url: str) -> Counter[int]:
    """Predict requests by status, as all workers count them."""
    metrics = httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text
    lines = re.findall(r'mlops_requests_total\{model="delay",route="predict",status="(\d+)"\} (\S+)', metrics)
    return Counter({int(status): int(float(value)) for status, value in lines})


def test_overload_is_answered_or_turned_away_and_counted_to_the_last(url: str, home: Home):
    with ThreadPoolExecutor(CALLERS) as pool:
        told = [one for part in pool.map(lambda caller: ask(url, caller), range(CALLERS)) for one in part]

    statuses = Counter(status for status, _, _ in told)
    assert set(statuses) == {200, 503}
    assert {retry for status, _, retry in told if status == 503} == {"1"}
    # What the other worker has counted is at most a second late.
    wait_until(lambda: counted(url) == statuses, timeout_s=60)
    records = list(PredictionLog(home.prediction_log).records("delay"))
    assert sorted(record.id for record in records) == sorted(str(name) for status, name, _ in told if status == 200)

    metrics = httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text
    assert f'mlops_shed_requests_total{{model="delay",reason="lag"}} {statuses[503]:.1f}' in metrics
    assert f'mlops_request_duration_seconds_count{{model="delay",route="predict"}} {len(told):.1f}' in metrics
    assert f'mlops_predictions_total{{model="delay",role="champion",version="1"}} {statuses[200]:.1f}' in metrics
    assert "mlops_event_loop_lag_seconds" in metrics


def test_the_next_request_is_answered(url: str):
    assert httpx.post(f"{url}{PREDICT}", json={"features": ROW}, timeout=60, trust_env=False).status_code == 200
