"""The lifecycle of one model, and what breaks when its data or its gates break."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier

from mlops_assets.core.evaluation import Evaluation
from mlops_assets.core.ledger import Decided, Entry, Frozen, Started
from mlops_assets.operations import confirm
from mlops_assets.operations.carry_out import DECISION_TAG
from mlops_assets.operations.smoke import SmokeTest
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home
from mlops_assets_tests.assets.lifecycle import Run, make_rows, make_spec, run_lifecycle

EVERY_ASSET = {
    "raw_data",
    "validated_features",
    "quarantine",
    "imputed_features",
    "trained_model",
    "evaluation",
    "deployed_bento",
}


LENIENT = [{"kind": "champion", "metric": "brier", "margin": 0.9}]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "flights.parquet"
    make_rows().to_parquet(path)
    return path


@pytest.fixture(scope="module")
def first_home(tmp_path_factory: pytest.TempPathFactory, migrated_registry: Path) -> Path:
    """State with a first release in it, made once by a whole run and copied for each test."""
    home = tmp_path_factory.mktemp("first")
    (home / "mlflow").mkdir()
    shutil.copy(migrated_registry, home / "mlflow" / "mlflow.db")
    make_rows().to_parquet(home / "flights.parquet")
    run = run_lifecycle(make_spec(home / "flights.parquet"), home)
    assert run.result.success, run.failure()
    assert run.materialised == EVERY_ASSET
    assert run.failed_checks == set()
    return home


@pytest.fixture
def released(first_home: Path, home: Path) -> Stores:
    """A home with a first release, which whatever comes after must leave alone."""
    shutil.copytree(first_home, home, dirs_exist_ok=True)
    return Stores(Home(home))


def test_first_model_goes_from_rows_to_release(released: Stores):
    plan = released.releases.current("delay")
    assert plan.release == 1
    manifest = released.bundles.get(plan.champion.bundle).manifest
    assert manifest.uncompiled is None
    assert manifest.data_hash.startswith("sha256:")
    assert released.registry.aliased("delay", "champion") == plan.champion.version == manifest.version
    fits = [version.tags["fit"] for version in released.registry.versions("delay")]
    assert fits == ["gated", "refit"]


def test_nothing_new_writes_no_new_release(released: Stores, home: Path, table: Path):
    again = run_lifecycle(make_spec(table), home)
    assert again.result.success
    assert again.stores.releases.current("delay").release == 1
    metadata = again.result.asset_materializations_for_node("delay__deployed_bento")[0].metadata
    assert metadata["new_release"].value is False


def test_new_rows_make_a_second_release_judged_against_the_champion(released: Stores, home: Path, table: Path):
    make_rows(seed=2).to_parquet(table)
    second = run_lifecycle(make_spec(table, gates=LENIENT), home)
    assert second.result.success, second.failure()
    plan = second.stores.releases.current("delay")
    assert (plan.release, plan.previous) == (2, 1)
    assert plan.last_good.version == second.stores.releases.get("delay", 1).champion.version
    evaluation = second.stores.lake.read_document("delay", "evaluation", Evaluation)
    assert {comparison.metric for comparison in evaluation.comparisons} >= {"brier", "log_loss"}
    assert "the champion's fit without its own held-out rows" in evaluation.compared_with


def test_a_candidate_is_put_on_trial_where_that_is_declared_and_a_newer_one_takes_its_place(
    released: Stores, home: Path, table: Path
):
    rules = {"strategy": "shadow-then-canary", "shadow": {"share": 0.5}}
    champion = released.releases.current("delay").champion
    tried = []
    for seed in (2, 3):
        make_rows(seed=seed).to_parquet(table)
        run = run_lifecycle(make_spec(table, gates=LENIENT, release=rules), home)
        assert run.result.success, run.failure()
        plan = run.stores.releases.current("delay")
        assert (plan.release, plan.champion, plan.withdrawn) == (seed, champion, ())
        assert (plan.challenger.mode, plan.challenger.share) == ("shadow", 0.5)
        metadata = run.result.asset_materializations_for_node("delay__deployed_bento")[0].metadata
        assert (metadata["on_trial"].value, metadata["version"].value) == (True, plan.challenger.version)
        assert run.stores.registry.aliased("delay", "champion") == champion.version
        tried.append(plan)
    assert tried[0].challenger.version < tried[1].challenger.version
    assert tried[0].salt != tried[1].salt
    again = run_lifecycle(make_spec(table, gates=LENIENT, release=rules), home)
    assert again.stores.releases.current("delay") == tried[1], "that very model is on trial already"


def test_a_freeze_while_it_trains_keeps_the_candidate_out_of_service(released: Stores, home: Path, table: Path):
    now = datetime(2024, 3, 1, tzinfo=UTC)
    decision = Decided("retrain", "auto", "it has decayed", details={"trigger": "performance"})
    for subject, fact in (("d-1", decision), ("d-1", Started(1)), ("delay", Frozen("somebody looks at it"))):
        released.ledger.record(Entry("delay", subject, fact, "sensor:delay_response", now, now))
    make_rows(seed=2).to_parquet(table)
    run = run_lifecycle(make_spec(table, gates=LENIENT), home, tags={DECISION_TAG: "d-1"})
    assert "released" in run.failed_checks
    assert "automation is frozen: somebody looks at it" in run.check("released").description
    assert_champion_serves(run)
    assert len(run.stores.registry.versions("delay")) == 3, "the candidate stays registered"


def assert_champion_serves(run: Run) -> None:
    """The first release is untouched, and nothing half-written is left."""
    assert run.stores.releases.current("delay").release == 1
    assert run.stores.registry.aliased("delay", "champion") == run.stores.releases.current("delay").champion.version
    assert not list(run.stores.home.root.rglob("*.tmp"))


def test_a_renamed_column_blocks(released: Stores, home: Path, table: Path):
    make_rows().rename(columns={"temp": "temperature"}).to_parquet(table)
    broken = run_lifecycle(make_spec(table), home)
    assert not broken.result.success
    assert "columns_as_declared" in broken.failed_checks
    assert "column 'temp' is missing; found" in broken.check("columns_as_declared").description
    assert "trained_model" not in broken.materialised
    assert_champion_serves(broken)


def test_many_missing_values_raise_the_alarm_and_are_imputed(released: Stores, home: Path, table: Path):
    rows = make_rows()
    rows.loc[rows.sample(frac=0.4, random_state=0).index, "temp"] = None
    rows.to_parquet(table)
    run = run_lifecycle(make_spec(table, gates=LENIENT), home)
    alarm = run.check("missing_rate")
    assert (alarm.passed, alarm.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "temp" in alarm.description
    assert "knn" in alarm.description
    assert run.result.success, run.failure()
    plan = run.stores.bundles.get(run.stores.releases.current("delay").champion.bundle).manifest.imputation
    assert plan["temp"].strategy == "knn"
    assert 0 < len(plan.donors) <= 2000
    assert not run.stores.lake.read_table("delay", "imputed_features").isna().any(axis=None)


def test_a_nearly_empty_feature_is_dropped_visibly(home: Path, table: Path):
    rows = make_rows()
    rows.loc[rows.index[20:], "wind"] = None
    rows.to_parquet(table)
    run = run_lifecycle(make_spec(table), home)
    assert run.result.success, run.failure()
    assert run.failed_checks == {"missing_rate", "no_feature_dropped"}
    assert "wind" not in run.stores.lake.read_table("delay", "imputed_features")


def test_a_carrier_never_seen_is_flagged_and_goes_on(released: Stores, home: Path, table: Path):
    rows = make_rows()
    rows.loc[rows.index[:30], "carrier"] = "ZZ"
    rows.to_parquet(table)
    run = run_lifecycle(make_spec(table), home)
    assert run.result.success
    assert run.failed_checks == {"known_domain"}
    assert run.check("known_domain").description == "carrier: 30 rows"


def test_negative_distances_go_to_quarantine_with_their_reason(released: Stores, home: Path, table: Path):
    rows = make_rows()
    rows.loc[rows.index[:20], "distance"] = -5.0
    rows.to_parquet(table)
    run = run_lifecycle(make_spec(table), home)
    assert run.result.success, run.failure()
    quarantine = run.stores.lake.read_table("delay", "quarantine")
    assert len(quarantine) == 20
    assert set(quarantine["quarantine_reason"]) == {"distance: expected at least 1 mi"}


def test_too_many_broken_rows_block(released: Stores, home: Path, table: Path):
    rows = make_rows()
    rows.loc[rows.index[:200], "distance"] = -5.0
    rows.to_parquet(table)
    run = run_lifecycle(make_spec(table), home)
    assert not run.result.success
    assert run.failed_checks == {"quarantined_share"}
    assert_champion_serves(run)


def test_text_in_a_number_goes_to_quarantine(released: Stores, home: Path, tmp_path: Path):
    rows = make_rows().astype({"temp": object})
    rows.loc[rows.index[7], "temp"] = "cold"
    csv = tmp_path / "flights.csv"
    rows.to_csv(csv, index=False)
    run = run_lifecycle(make_spec(csv), home)
    assert run.result.success, run.failure()
    quarantine = run.stores.lake.read_table("delay", "quarantine")
    assert quarantine["quarantine_reason"].tolist() == ["temp: expected a finite number"]
    assert quarantine["temp"].tolist() == ["cold"]


@pytest.mark.parametrize(
    "content", ["", "flight,departure,carrier,temp,wind,distance,late\n"], ids=["no bytes", "no rows"]
)
def test_an_empty_file_is_refused(released: Stores, home: Path, tmp_path: Path, content: str):
    csv = tmp_path / "empty.csv"
    csv.write_text(content)
    run = run_lifecycle(make_spec(csv), home)
    assert not run.result.success
    assert "the file is empty" in run.failure() or "enough_rows" in run.failed_checks
    assert_champion_serves(run)


def test_a_missing_file_is_refused_with_its_name(released: Stores, home: Path, tmp_path: Path):
    run = run_lifecycle(make_spec(tmp_path / "nowhere.parquet"), home)
    assert "nowhere.parquet: no such table" in run.failure()
    assert_champion_serves(run)


def test_a_gate_that_cannot_be_passed_keeps_the_champion(released: Stores, home: Path, table: Path):
    make_rows(seed=3).to_parquet(table)
    spec = make_spec(table, gates=[{"metric": "roc_auc", "at_least": 0.999}])
    refused = run_lifecycle(spec, home)
    assert not refused.result.success
    assert refused.failed_checks == {"roc_auc_at_least"}
    assert "deployed_bento" not in refused.materialised
    assert_champion_serves(refused)


def test_selecting_only_the_deployment_does_not_get_around_a_failed_gate(released: Stores, home: Path, table: Path):
    """A blocking check gates only the run it is in, so the deploying asset reads the verdict again."""
    make_rows(seed=3).to_parquet(table)
    spec = make_spec(table, gates=[{"metric": "roc_auc", "at_least": 0.999}])
    run_lifecycle(spec, home)
    alone = run_lifecycle(spec, home, selection=["deployed_bento"])
    assert not alone.result.success
    assert "failed its gates: roc_auc_at_least" in alone.failure()
    assert alone.failed_checks == {"released"}
    assert_champion_serves(alone)


def test_a_release_that_does_not_answer_is_taken_back(
    released: Stores, home: Path, table: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(confirm, "smoke_test", lambda stores, plan: SmokeTest(False, "golden rows differ"))
    make_rows(seed=2).to_parquet(table)
    run = run_lifecycle(make_spec(table, gates=LENIENT), home)
    assert not run.result.success
    assert run.failed_checks == {"released"}
    first, plan = run.stores.releases.get("delay", 1), run.stores.releases.current("delay")
    assert plan.release == 3
    assert plan.champion == first.champion
    assert plan.withdrawn == (run.stores.releases.get("delay", 2).champion.version,)
    assert run.stores.registry.aliased("delay", "champion") == first.champion.version


def test_a_champion_that_has_seen_the_held_out_rows_is_no_measure(released: Stores, home: Path, table: Path):
    run = run_lifecycle(make_spec(table), home, as_of="2024-02-20T00:00:00Z")
    assert not run.result.success
    assert run.failed_checks == {"brier_not_worse_than_champion"}
    assert "a comparison would flatter it" in run.check("brier_not_worse_than_champion").description
    assert_champion_serves(run)


def test_as_of_hides_what_came_later(home: Path, table: Path):
    run = run_lifecycle(make_spec(table), home, as_of="2024-02-15T00:00:00Z")
    assert run.result.success, run.failure()
    raw = run.stores.lake.read_table("delay", "raw_data")
    assert raw["departure"].max() < pd.Timestamp("2024-02-15", tz="UTC")
    last_hour = raw["departure"] > pd.Timestamp("2024-02-14T23:00", tz="UTC")
    assert raw.loc[last_hour, "late"].isna().all()
    assert raw.loc[~last_hour, "late"].notna().all()


@pytest.mark.parametrize("as_of", ["yesterday", "2024-02-15T00:00:00"])
def test_an_as_of_that_is_no_moment_is_refused(home: Path, table: Path, as_of: str):
    run = run_lifecycle(make_spec(table), home, as_of=as_of)
    assert repr(as_of) in run.failure()


def test_a_mlflow_run_ends_as_its_dagster_run_does(released: Stores, home: Path, table: Path):
    """dagster-mlflow records a failed run as finished; the tracking resource corrects that."""
    failed = run_lifecycle(make_spec(table, gates=[{"metric": "roc_auc", "at_least": 0.999}]), home)
    client = failed.stores.registry.client
    experiment = client.get_experiment_by_name("delay")
    runs = {run.data.tags["dagster/run_id"]: run.info.status for run in client.search_runs([experiment.experiment_id])}
    first = released.bundles.get(released.releases.current("delay").champion.bundle).manifest
    assert runs == {first.dagster_run: "FINISHED", failed.result.run_id: "FAILED"}


def test_what_cannot_be_compiled_is_served_by_scikit_learn(home: Path, table: Path):
    training = {
        "estimator": "sklearn.neural_network.MLPClassifier",
        "parameters": {"max_iter": 30},
        "holdout": "14d",
        "seed": 3,
    }
    spec = make_spec(
        table,
        training={**training, "number_transformer": {"estimator": "sklearn.preprocessing.StandardScaler"}},
        gates=[],
    )
    run = run_lifecycle(spec, home)
    assert run.result.success, run.failure()
    assert run.failed_checks == {"compiled", "final_fit_compiled"}
    bundle = run.stores.bundles.get(run.stores.releases.current("delay").champion.bundle)
    assert bundle.manifest.uncompiled is not None
    watched_against = {"reference.npz", "scores.npz", "held_out.json"}
    assert set(bundle.files) == {"pipeline.skops", "golden.json", "background.json", *watched_against}


def test_a_model_that_differs_from_itself_is_blocked(home: Path, table: Path):
    training = {"estimator": "mlops_assets_tests.assets.test_lifecycle.Fickle", "holdout": "14d"}
    run = run_lifecycle(make_spec(table, training=training, gates=[]), home)
    assert not run.result.success
    assert "reproducible" in run.failed_checks


class Fickle(DummyClassifier):
    """An estimator whose answers are drawn anew at each fit."""

    def fit(self, X, y):
        super().fit(X, y)
        share = np.random.default_rng().random()
        self.class_prior_ = np.array([share, 1 - share])
        return self
