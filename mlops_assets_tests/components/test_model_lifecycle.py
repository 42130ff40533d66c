"""One YAML file becomes one model's definitions, and a mistake in it is named with its place."""

import traceback
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.definitions import defs as project_definitions
from mlops_assets_tests.components.declarations import WINE_YAML, loaded, write_wine_table

ASSETS = (
    "raw_data",
    "validated_features",
    "quarantine",
    "imputed_features",
    "trained_model",
    "evaluation",
    "deployed_bento",
    "live_traffic",
    "data_health",
    "model_health",
)


def test_the_shipped_models_have_their_assets_jobs_and_gates():
    """A snapshot: an asset or check that appears or goes is a decision, not an accident."""
    definitions = project_definitions()
    repository = definitions.get_repository_def()
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert keys == {f"{model}/{asset}" for model in ("flight_delay", "air_time") for asset in ASSETS} | {"scorecard"}
    for model in ("flight_delay", "air_time"):
        jobs = {f"{model}_{name}" for name in ("lifecycle", "monitoring", "rollback", "retrain")}
        assert jobs <= set(repository.job_names)
        sensors = [repository.get_sensor_def(f"{model}_{name}") for name in ("traffic", "watch", "response", "guard")]
        assert {sensor.default_status for sensor in sensors} == {dg.DefaultSensorStatus.RUNNING}
        for name in ("data_health", "model_health"):
            node = repository.asset_graph.get(dg.AssetKey([model, name]))
            assert node.freshness_policy_or_from_metadata is not None
            assert (
                node.partitions_def == repository.asset_graph.get(dg.AssetKey([model, "live_traffic"])).partitions_def
            )
    gates = {
        key.name
        for key in repository.asset_graph.asset_check_keys
        if key.asset_key.path == ["flight_delay", "evaluation"]
    }
    assert gates == {
        "roc_auc_at_least",
        "calibration_error_at_most",
        "brier_beats_baseline",
        "roc_auc_at_least_per_slice",
        "brier_not_worse_than_champion",
        "latency_at_most",
    }


def test_a_model_is_declared_by_yaml_alone(tmp_path: Path):
    table = write_wine_table(tmp_path / "wine.parquet")
    with loaded(WINE_YAML.format(table=table)) as definitions:
        assert definitions.resolve_job_def("wine_lifecycle")
        assert definitions.resolve_assets_def(dg.AssetKey(["wine", "quarantine"])).group_names_by_key


def test_templates_in_text_values_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WINE_TABLE", str(write_wine_table(tmp_path / "wine.parquet")))
    with loaded(WINE_YAML.replace("{table}", "'{{{{ env.WINE_TABLE }}}}'").format()) as definitions:
        assert definitions.resolve_job_def("wine_lifecycle")


MISTAKES = {
    "unknown estimator": (
        "sklearn.ensemble.RandomForestClassifier",
        "sklearn.ensemble.RandomWoodClassifier",
        ["training.estimator", "module 'sklearn.ensemble' has no 'RandomWoodClassifier'"],
    ),
    "missing label": ("  label:\n    column: cultivar\n    delay: 1h\n", "", ["label", "Field required"]),
    "range upside down": (
        "minimum: 5, maximum: 20",
        "minimum: 20, maximum: 5",
        ["features.0", "range upside down", "20", "5"],
    ),
    "duplicate feature": ("name: hue,", "name: proline,", ["features", "duplicate feature 'proline'"]),
    "unknown field": ("  owner:", "  colour: red\n  owner:", ["colour", "Extra inputs are not permitted"]),
    "metric of another task": (
        "metric: accuracy",
        "metric: mae",
        ["gates[0].metric", "'mae' does not fit multiclass", "accuracy"],
    ),
    "no time zone": ("2024-06-01T00:00:00Z", "2024-06-01T00:00:00", ["live_from", "names no time zone"]),
    "bad duration": ("holdout: 20d", "holdout: 20 fortnights", ["training.holdout", "is not a duration", "'14d'"]),
    "no task of ours": ("task: multiclass", "task: clustering", ["task", "'binary', 'multiclass' or 'regression'"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place(mistake: str, tmp_path: Path):
    good, bad, said = MISTAKES[mistake]
    yaml = WINE_YAML.format(table=tmp_path / "wine.parquet")
    assert good in yaml
    with pytest.raises(Exception, match="wine") as caught, loaded(yaml.replace(good, bad)):
        pass
    report = "".join(traceback.format_exception(caught.value))
    for words in ["defs.yaml", *said]:
        assert words in report, report[-3000:]
