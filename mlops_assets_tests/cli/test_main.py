"""What an operator types, on a home with two releases and one logged answer."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_assets.cli import app
from mlops_assets.core.monitoring.watch import Heartbeat
from mlops_assets.core.records import LabelRecord, PredictionRecord
from mlops_assets.operations import models
from mlops_assets.operations.live_traffic import compact, ingest, stale_windows
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.watching import HEARTBEAT
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import LogWriter
from mlops_assets_tests.serving.factory import release, small_model

ASKED = datetime(2013, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = Home(tmp_path)
    release(home, small_model(), "the first")
    plan = release(home, small_model(version=2), "a better one")
    writer = LogWriter(home.prediction_log, "worker-1")
    answer = PredictionRecord(
        id="p-1",
        model="delay",
        version=2,
        bundle=plan.champion.bundle,
        release=2,
        rollout=plan.rollout,
        role="champion",
        event_time=ASKED,
        served_at=ASKED,
        entity="UA1545-EWR",
        features=(None, 1.0),
        imputed=("temp",),
        output=(0.75, 0.25),
        latency_ms=0.4,
    )
    refused = PredictionRecord(
        id="p-2",
        model="delay",
        version=2,
        bundle=plan.champion.bundle,
        release=2,
        rollout=plan.rollout,
        role="champion",
        event_time=ASKED,
        served_at=ASKED,
        status=422,
        error="features.temp: wrong",
    )
    label = LabelRecord(model="delay", name="outcome", value=1, observed_at=ASKED, received_at=ASKED, id="p-1")
    writer.append([answer, refused, label])
    writer.close()
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    monkeypatch.setattr(models, "read_declarations", lambda _folder=None: ({"delay": small_model().spec}, ()))
    return home


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, terminal_width=200)
    return result.exit_code, " ".join((result.output + result.stderr).split())


def test_status_shows_champion_and_release(home: Home):
    code, output = run("status")
    assert code == 0
    for words in ("delay", "binary", "v2", "none running", "never judged", "not running"):
        assert words in output


def beat(home: Home, age: timedelta, error: str | None = None) -> None:
    Stores(home).lake.write_document("delay", HEARTBEAT, Heartbeat(datetime.now(UTC) - age, error))


def test_status_tells_when_the_monitor_last_looked(home: Home):
    assert "never looked" in run("status")[1]
    beat(home, timedelta(seconds=2))
    code, output = run("status")
    assert code == 0
    assert " s ago" in output


@pytest.mark.parametrize("error", [None, "LogError: disk full"])
def test_status_fails_when_a_monitor_has_stopped_while_something_waits(home: Home, error: str | None):
    beat(home, timedelta(seconds=1) if error else timedelta(hours=1), error)
    code, output = run("status")
    assert code == 1
    assert "the monitor of delay does not do its work, and something waits" in output
    assert (error or "the monitor last looked at") in output
    ingest(Stores(home), [small_model().spec])
    for window in stale_windows(small_model().spec, Stores(home)):
        compact(small_model().spec, Stores(home), window)
    assert run("status")[0] == 0


def test_releases_are_listed_newest_first_with_their_reasons(home: Home):
    code, output = run("releases", "delay")
    assert code == 0
    assert 0 < output.index("a better one") < output.index("the first")


def test_releases_of_an_unknown_model_say_what_to_do(home: Home):
    code, output = run("releases", "nothing")
    assert code == 1
    assert "no model 'nothing': declared are delay" in output


def test_before_the_first_release_it_is_said_how_it_comes(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLOPS_HOME", str(home.root / "empty"))
    code, output = run("releases", "delay")
    assert code == 1
    assert "train its first version with `mlops-assets retrain delay --reason ... --now`" in output


def test_status_shows_the_others_where_a_declaration_is_wrong(home: Home, monkeypatch: pytest.MonkeyPatch):
    wrong = models.Mistake("churn", "churn/defs.yaml: model 'churn': owner: missing")
    monkeypatch.setattr(models, "read_declarations", lambda _folder=None: ({"delay": small_model().spec}, (wrong,)))
    code, output = run("status")
    assert code == 1
    assert "v2" in output
    assert "model 'churn': owner: missing" in output


def test_a_port_that_there_is_not_is_refused(home: Home):
    code, output = run("serve", "--port", "99999")
    assert code == 2
    assert "65535" in output


def test_trace_leads_to_release_version_run_data_and_code(home: Home):
    code, output = run("trace", "p-1")
    assert code == 0
    manifest = small_model(version=2).manifest
    for words in (
        "UA1545-EWR",
        "0.75, 0.25",
        "temp",
        "outcome = 1",
        "a better one",
        "delay v2",
        manifest.data_hash,
        manifest.code_version,
    ):
        assert words in output
    assert f"MLflow run {manifest.mlflow_run}" in output


def test_trace_of_a_refused_request_shows_its_error(home: Home):
    code, output = run("trace", "p-2")
    assert code == 0
    assert "status 422: features.temp: wrong" in output


def test_trace_of_an_unknown_id_says_so(home: Home):
    code, output = run("trace", "p-9")
    assert code == 1
    assert "no prediction 'p-9'" in output


def test_the_command_line_is_there_before_the_heavy_libraries() -> None:
    heavy = ("bentoml", "dagster", "mlflow", "pandas", "scipy", "sklearn", "sqlalchemy")
    code = f"import sys, mlops_assets.cli; print(sorted(set(sys.modules) & set({heavy!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
