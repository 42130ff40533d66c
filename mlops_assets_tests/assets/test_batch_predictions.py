"""`batch_predictions` as a Dagster asset: there where it is declared, with figures that add up and a check on what is left out."""

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from mlops_assets.assets.batch_predictions import batch_predictions_assets
from mlops_assets.core.spec import ModelSpec
from mlops_assets.resources import make_resources
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model, small_spec

KEY = dg.AssetKey(["delay", "batch_predictions"])


def declared(folder: Path, **changes: Any) -> ModelSpec:
    batch = {"input": str(folder / "in.parquet"), "output": str(folder / "out.parquet"), **changes}
    return small_spec(batch=batch, monitoring={"until": "2013-04-01T00:00:00Z"})


def materialise(
    spec: ModelSpec, folder: Path, instance: dg.DagsterInstance, **options: Any
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        batch_predictions_assets(spec),
        resources=make_resources(str(folder / "home")),
        instance=instance,
        raise_on_error=False,
        **options,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    release(Home(tmp_path / "home"), small_model())
    return tmp_path


def test_without_a_declaration_there_is_no_asset() -> None:
    assert batch_predictions_assets(small_spec()) == []


@pytest.mark.parametrize(("limit", "passed"), [(None, False), (0.5, True)])
def test_its_figures_add_up_and_its_check_looks_at_the_share(folder: Path, limit: float | None, passed: bool) -> None:
    frame = small_model().fresh.head(20)
    frame.assign(distance=[None, *frame["distance"][1:]]).to_parquet(folder / "in.parquet")
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialise(declared(folder, max_quarantined_share=limit), folder, instance)
        assert result.success
        event = instance.get_latest_materialization_event(KEY)
    assert event is not None
    assert event.asset_materialization is not None
    figures = event.asset_materialization.metadata
    assert {name: figures[name].value for name in ("rows", "scored", "quarantined", "version", "release")} == {
        "rows": 20,
        "scored": 19,
        "quarantined": 1,
        "version": 1,
        "release": 1,
    }
    assert figures["rows_per_s"].value > 0
    assert len(pd.read_parquet(str(figures["path"].value))) == 19
    assert len(pd.read_parquet(str(figures["quarantine"].value))) == 1
    [check] = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("quarantined_share", passed)
    assert "1 of 20 rows" in (check.description or "")
    assert "distance: expected a value" in (check.description or "")


def test_windows_are_partitions_and_many_are_one_run(folder: Path) -> None:
    spec = declared(
        folder, by_window=True, input=str(folder / "in-{window}.parquet"), output=str(folder / "out-{window}.parquet")
    )
    days = ("2013-03-01", "2013-03-02")
    for number, day in enumerate(days):
        small_model().fresh.head(5 + number).to_parquet(folder / f"in-{day}.parquet")
    tags = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[1]}
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialise(spec, folder, instance, tags=tags).success
        records = instance.fetch_materializations(KEY, limit=10).records
        rows = {one.partition_key: one.asset_materialization.metadata["rows"].value for one in records}
        missing = materialise(spec, folder, instance, partition_key="2013-03-03")
    assert rows == {days[0]: 5, days[1]: 6}
    assert (folder / f"out-{days[1]}.parquet").exists()
    assert not missing.success


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": "rows.xlsx"}, "input 'rows.xlsx': unknown kind of table"),
        ({"output": "out.csv.gz"}, "output 'out.csv.gz': unknown kind of table"),
        ({"output": "out-{window}.parquet"}, "has no windows: by_window"),
        ({"by_window": True}, "needs {window} in it"),
        ({"input": "a.csv", "output": "a.csv"}, "are the same table"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        declared(tmp_path, **changes)
