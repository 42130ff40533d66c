"""A model declared by YAML alone: from its rows to answers over HTTP from a built Bento, and what a running service sees."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from mlops_assets.core.training import predict
from mlops_assets.operations.bento import bento_path
from mlops_assets.operations.client import PredictionClient
from mlops_assets.operations.history import read_history
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.smoke import outputs_of
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import running_service
from mlops_assets.operations.trace import trace
from mlops_assets.stores.home import Home
from mlops_assets_tests.components.declarations import WINE_YAML, loaded, write_wine_table
from mlops_assets_tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.bento]
FEATURES = ["alcohol", "flavanoids", "proline", "hue", "cellar"]


def run_wine(yaml: str, home: Path) -> dg.ExecuteInProcessResult:
    with loaded(yaml, str(home)) as definitions:
        job = definitions.resolve_job_def("wine_lifecycle")
        return job.execute_in_process(instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)


@pytest.fixture(scope="module")
def yaml(tmp_path_factory: pytest.TempPathFactory) -> str:
    return WINE_YAML.format(table=write_wine_table(tmp_path_factory.mktemp("table") / "wine.parquet"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, yaml: str) -> Stores:
    home = tmp_path_factory.mktemp("home")
    result = run_wine(yaml, home)
    assert result.success
    assert [check.check_name for check in result.get_asset_check_evaluations() if not check.passed] == []
    return Stores(Home(home))


@pytest.fixture(scope="module")
def client(stores: Stores, yaml: str) -> Iterator[PredictionClient]:
    """A service of two workers from the built Bento."""
    tags = list((stores.home.bentoml / "bentos" / "predictor").glob("*/bento.yaml"))
    assert len(tags) == 1
    target = bento_path(stores.home, f"predictor:{tags[0].parent.name}")
    short = {"MLOPS_LOG_SEGMENT_SECONDS": "2"}  # what is answered is soon sealed, and then read
    with (
        running_service(stores.home, workers=2, target=target, environment=short) as url,
        PredictionClient(url) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def rows(stores: Stores) -> pd.DataFrame:
    return stores.lake.read_table("wine", "validated_features")


def requests_for(rows: pd.DataFrame) -> list[dict[str, object]]:
    values = rows[FEATURES].astype(object).where(rows[FEATURES].notna(), None)
    return [
        {"entity": bottle, "event_time": f"2024-06-02T00:{position // 60:02}:{position % 60:02}Z", "features": features}
        for position, (bottle, features) in enumerate(zip(rows["bottle"], values.to_dict("records"), strict=True))
    ]


def test_http_answers_equal_the_registered_pipeline(stores: Stores, client: PredictionClient, rows: pd.DataFrame):
    answers = client.predict_many("wine", requests_for(rows))
    version = stores.releases.current("wine").champion.version
    expected = predict(stores.registry.load("wine", version), rows[FEATURES])
    assert np.abs(np.array([outputs_of(answer) for answer in answers]) - expected).max() <= 1e-9
    assert {tuple(answer["imputed"]) for answer in answers} == {(), ("hue",)}
    assert {answer["prediction"] for answer in answers} == {"cultivar 0", "cultivar 1", "cultivar 2"}


def test_labels_posted_come_back_as_training_rows(
    stores: Stores, client: PredictionClient, yaml: str, rows: pd.DataFrame, tmp_path: Path
):
    answers = client.predict_many("wine", requests_for(rows.head(20)))
    labels = [
        {"id": answer["prediction_id"], "value": truth, "observed_at": "2024-06-03T00:00:00Z"}
        for answer, truth in zip(answers, rows["cultivar"], strict=False)
    ]
    assert client.feedback("wine", labels) == 20
    (tmp_path / "defs.yaml").write_text(yaml)
    spec = declared_models(tmp_path)["wine"]
    wait_until(lambda: read_history(spec, stores).logged_rows == 20, timeout_s=30)
    history = read_history(spec, stores)
    logged = history.frame.tail(20)
    assert sorted(logged["bottle"]) == sorted(rows["bottle"].head(20))
    assert read_history(spec, stores, spec.live_from).logged_rows == 0


def test_a_prediction_is_traced_to_its_origin(stores: Stores, client: PredictionClient, rows: pd.DataFrame):
    answer = client.predict("wine", requests_for(rows.head(1))[0])
    (found,) = trace(stores, answer["prediction_id"])
    assert found.plan.release == answer["release"]
    manifest = found.manifest
    assert manifest.version == answer["model_version"]
    run = stores.registry.client.get_run(manifest.mlflow_run)
    assert run.data.tags["dagster/run_id"] == manifest.dagster_run
    assert run.data.params["data_hash"] == manifest.data_hash
    assert run.data.params["code_version"] == manifest.code_version


def test_a_new_release_reaches_every_worker_and_a_refused_one_none(
    stores: Stores, client: PredictionClient, yaml: str, rows: pd.DataFrame
):
    changed = run_wine(yaml.replace("n_estimators: 30", "n_estimators: 35"), stores.home.root)
    assert changed.success
    metadata = changed.asset_materializations_for_node("wine__deployed_bento")[0].metadata
    assert metadata["workers"].value == 2
    assert "golden rows" in metadata["smoke_test"].value
    assert client.predict("wine", requests_for(rows.head(1))[0])["release"] == 2

    refused = run_wine(
        yaml.replace("at_least: 0.8", "at_least: 1.0").replace("n_estimators: 30", "n_estimators: 3"), stores.home.root
    )
    assert not refused.success
    assert stores.releases.current("wine").release == 2
    assert {client.predict("wine", requests_for(rows.head(1))[0])["release"] for _ in range(20)} == {2}


def test_probes_are_logged_and_never_counted(stores: Stores, client: PredictionClient, rows: pd.DataFrame):
    answer = client.predict("wine", {**requests_for(rows.head(1))[0], "probe": True})
    (record,) = stores.log.find(answer["prediction_id"])
    assert record.probe
