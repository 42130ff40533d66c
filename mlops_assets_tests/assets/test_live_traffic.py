"""`live_traffic` as a Dagster asset: windows as partitions, many in one run, figures for each, checks that warn."""

from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.assets.live_traffic import live_traffic_asset
from mlops_assets.assets.partitions import partitions_of
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.resources import make_resources
from mlops_assets_tests.core.examples import make_spec
from mlops_assets_tests.operations.traffic_examples import Traffic, window

KEY = dg.AssetKey(["delay", "live_traffic"])


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return Traffic(tmp_path, monitoring={"until": "2024-05-01T00:00:00Z"})


def materialise(traffic: Traffic, first: str, last: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [live_traffic_asset(traffic.spec)],
        resources=make_resources(str(traffic.stores.home.root)),
        instance=instance,
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
    )


@pytest.mark.parametrize(
    ("monitoring", "last"),
    [
        ({"window": "hour", "until": "2024-03-03T00:00:00Z"}, "2024-03-02-23:00"),
        ({"until": "2024-04-01T00:00:00Z"}, "2024-03-31"),
        ({"until": "2024-04-01T00:00:01Z"}, "2024-04-01"),
        ({"timezone": "America/New_York", "until": "2024-04-01T00:00:00Z"}, "2024-03-31"),
        ({"window": "week", "timezone": "Europe/Berlin", "until": "2024-04-10T00:00:00Z"}, "2024-04-08"),
        ({"window": "week", "timezone": "Europe/Berlin"}, None),
        ({}, None),
    ],
)
def test_partitions_are_the_windows(monitoring: dict[str, str], last: str | None) -> None:
    spec = make_spec(monitoring=monitoring)
    windows, keys = Windows.of(spec), partitions_of(spec).get_partition_keys()
    assert keys == list(windows.between(windows.first, keys[-1]))
    assert last is None or keys[-1] == last
    assert windows.holds(keys[-1])
    assert last is None or not windows.holds(windows.shift(keys[-1], 1))


def test_many_windows_are_one_run_with_figures_for_each(traffic: Traffic) -> None:
    traffic.segment(*[traffic.prediction(6 * number) for number in range(8)], traffic.label(0), traffic.label(6))
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialise(traffic, window(0), window(1), instance)
        assert result.success
        records = instance.fetch_materializations(KEY, limit=10).records
        figures = {record.partition_key: record.asset_materialization.metadata for record in records}
    assert {key: (one["answered"].value, one["coverage"].value) for key, one in figures.items()} == {
        window(0): (4, 0.5),
        window(1): (4, 0.0),
    }
    assert Path(figures[window(0)]["path"].value).is_file()
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "readable": True,
        "traffic_arrives": True,
        "monitor_is_alive": True,
    }


def test_a_window_in_which_nothing_came_is_an_empty_table(traffic: Traffic) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialise(traffic, window(3), window(3), instance)
    assert len(traffic.read(3)) == 0
    [arrives] = [one for one in result.get_asset_check_evaluations() if one.check_name == "traffic_arrives"]
    assert (arrives.passed, arrives.severity, arrives.description) == (
        False,
        dg.AssetCheckSeverity.WARN,
        "no window has traffic yet",
    )


def test_what_is_put_aside_warns(traffic: Traffic) -> None:
    traffic.segment(traffic.prediction(1), traffic.prediction(2, -50, served_at=traffic.prediction(2).served_at))
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialise(traffic, window(0), window(0), instance)
    assert result.success
    [readable] = [one for one in result.get_asset_check_evaluations() if one.check_name == "readable"]
    assert (readable.passed, readable.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert readable.description == "1 put aside: its event time lies before the first window 2024-03-01"
