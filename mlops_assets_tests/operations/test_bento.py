"""The Bento: what it carries, that it is built once, and that it answers with no store in reach."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
import yaml

from mlops_assets.core.rollout import Standby
from mlops_assets.operations import bento
from mlops_assets.operations.bento import BentoError, bento_path, build_bento
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE, free_port, running_service, wait_until_live
from mlops_assets.stores.bundles import BundleError
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import PredictionLog
from mlops_assets.stores.workers import WorkerStore
from mlops_assets_tests.serving.factory import answered_outputs, corrupt, release, small_model
from mlops_assets_tests.waiting import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_a_bento_carries_code_plans_and_bundles_and_is_built_once(home: Home):
    plan = release(home, small_model())
    tag = build_bento(home)
    folder = bento_path(home, tag)
    built_at = (folder / "bento.yaml").stat().st_mtime_ns

    assert build_bento(home) == build_bento(home, ("delay",)) == tag
    assert (folder / "bento.yaml").stat().st_mtime_ns == built_at
    assert (folder / "src" / "carried" / "plans" / "delay.json").is_file()
    assert (folder / "src" / "carried" / "bundles" / plan.champion.bundle.removeprefix("sha256:")).is_dir()
    assert (folder / "src" / "mlops_assets" / "serving" / "app.py").is_file()
    assert not (folder / "src" / "mlops_assets" / "operations").exists()
    requirements = (folder / "env" / "python" / "requirements.txt").read_text()
    assert "msgspec" in requirements
    assert not {"pandas", "scikit-learn", "mlflow", "dagster"} & set(requirements.replace(">=", "\n").split("\n"))


@pytest.mark.slow
def test_a_new_release_makes_a_new_bento_and_an_uncompiled_model_adds_what_it_needs(home: Home):
    release(home, small_model())
    first = build_bento(home)
    release(home, small_model("slow", compiled=False))

    second = build_bento(home)

    assert first != second
    declared = yaml.safe_load((bento_path(home, second) / "src" / "bentofile.yaml").read_text())
    assert any(package.startswith("scikit-learn") for package in declared["python"]["packages"])


def test_what_is_not_released_or_damaged_is_not_built(home: Home):
    with pytest.raises(BentoError, match="'delay' has no release"):
        build_bento(home, ("delay",))
    corrupt(home, release(home, small_model()).champion.bundle)
    with pytest.raises(BundleError, match="damaged"):
        build_bento(home)


def test_a_standby_that_is_lost_keeps_nobody_from_being_released(home: Home, monkeypatch: pytest.MonkeyPatch):
    """No version of any model could be released once the bundle of one model's former champion was damaged."""
    monkeypatch.setattr(bento, "_build", lambda context, home, version: None)
    staged: list[list[str]] = []

    def content(context: Path) -> str:
        staged.append(sorted(one.name for one in (context / "carried" / "bundles").iterdir()))
        return "1"

    monkeypatch.setattr(bento, "_content_hash", content)
    former, plan = release(home, small_model()).champion, release(home, small_model(version=2))
    standby = Standby(former.version, former.bundle, plan.decided_at)
    following = msgspec.structs.replace(plan, release=3, previous=2, standby=standby)
    build_bento(home, instead=following)
    corrupt(home, former.bundle)
    build_bento(home, instead=following)
    names = [one.bundle.removeprefix("sha256:") for one in (former, plan.champion)]
    assert staged == [sorted(names), names[1:]]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built Bento, and nothing of the home that it was built in."""
    folder = tmp_path_factory.mktemp("bento")
    home = Home(folder / "home")
    release(home, small_model())
    os.rename(bento_path(home, build_bento(home)), folder / "shipped")
    shutil.rmtree(home.root)
    return folder / "shipped"


@pytest.mark.slow
def test_a_bento_is_served_by_bentoml_alone_with_the_code_that_it_carries(shipped: Path, tmp_path: Path):
    """As in a container: `bentoml serve`, the folder of the Bento, and an environment that names an empty home."""
    folder, home, port = tmp_path / "shipped", Home(tmp_path / "empty"), free_port()
    shutil.copytree(shipped, folder)
    carried = folder / "src" / "mlops_assets" / "serving" / "app.py"
    said = carried.read_text()
    carried.write_text(said.replace("there is no such path", "what was shipped has no such path"))
    assert carried.read_text() != said
    environment = {"MLOPS_HOME": str(home.root), "BENTOML_HOME": str(tmp_path / "bentoml"), "MLOPS_WORKERS": "2"}
    with (
        served(["-m", "bentoml", "serve", ".", "--host", "127.0.0.1", "--port", str(port)], folder, environment),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        wait_until(
            lambda: len(WorkerStore(home.workers).live(datetime.now(UTC), HEARTBEAT_MAX_AGE)) == 2, timeout_s=120
        )
        wait_until(lambda: is_ready(client), timeout_s=30)
        assert_answers(client)
        assert "what was shipped has no such path" in client.get("/nowhere").text
        assert client.get("/v1/models").json()["models"][0]["release"] == 1
    assert len(list(PredictionLog(home.prediction_log).records("delay"))) == 100


@contextmanager
def served(arguments: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env={**os.environ, **environment}, start_new_session=True
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def assert_answers(client: httpx.Client) -> None:
    """A hundred rows are answered as the pipeline would."""
    model = small_model()
    rows = [{"features": row} for row in model.request_rows(100)]
    answers = client.post("/v1/models/delay/predict", json={"rows": rows}).json()["predictions"]
    outputs = np.array([answered_outputs(model, answer) for answer in answers])
    np.testing.assert_allclose(outputs, model.expected(100), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_bento_answers_elsewhere_with_two_workers_until_a_store_has_something_newer(shipped: Path, tmp_path: Path):
    elsewhere = Home(tmp_path / "elsewhere")

    with (
        running_service(elsewhere, target=shipped, workers=2, ready_timeout=120) as url,
        httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
    ):
        assert_answers(client)
        assert len(list(PredictionLog(elsewhere.prediction_log).records("delay"))) == 100
        assert wait_until_live(elsewhere, "delay", 1) == 2

        release(elsewhere, small_model(version=2))
        newer = release(elsewhere, small_model(version=3))

        assert wait_until_live(elsewhere, "delay", newer.release, timeout=60) == 2
        row = {"features": small_model().request_rows(1)[0]}
        assert client.post("/v1/models/delay/predict", json=row).json()["model_version"] == 3
