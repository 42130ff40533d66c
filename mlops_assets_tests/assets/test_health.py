"""`data_health` and `model_health` as Dagster assets: figures that can be plotted, checks that speak of the newest window."""

from pathlib import Path

import dagster as dg
import msgspec
import pytest

from mlops_assets.assets.data_health import data_checks, data_health_asset
from mlops_assets.assets.model_health import model_checks, model_health_asset
from mlops_assets.core.monitoring.health import DataHealth, ModelHealth, ServiceRecord
from mlops_assets.core.monitoring.volume import VolumeReport
from mlops_assets.resources import make_resources
from mlops_assets_tests.operations.health_examples import (
    health_reference,
    health_spec,
    health_windows,
    model_windows,
)
from mlops_assets_tests.operations.watched import LIVE_FROM, Watched, watched_rows

PLOTTED = 15  # series beyond which the page of an asset is no longer read
WINDOW = "2024-03-01"


@pytest.fixture(scope="module")
def data() -> list[DataHealth]:
    return health_windows(health_reference(), 8, 6)[1]


def passed(checks: list[dg.AssetCheckResult]) -> dict[str | None, bool]:
    return {check.check_name: check.passed for check in checks}


def served(service: ServiceRecord) -> dg.AssetCheckResult:
    newest = msgspec.structs.replace(model_windows(1)[0], service=service)
    [check] = [one for one in model_checks(health_spec(), [newest]) if one.check_name == "service"]
    return check


def test_every_window_has_its_figures_and_no_more_than_can_be_read(tmp_path: Path):
    watched = Watched.released(tmp_path)
    rows = watched_rows("binary", LIVE_FROM, 1, seed=7)
    watched.log(rows, status=[422] * 3 + [200] * (len(rows) - 3))
    watched.compacted()
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [data_health_asset(watched.spec), model_health_asset(watched.spec)],
            resources=make_resources(str(tmp_path)),
            instance=instance,
            partition_key=WINDOW,
        )
        figures = {}
        for name in ("data_health", "model_health"):
            [record] = instance.fetch_materializations(dg.AssetKey([watched.spec.name, name]), limit=1).records
            numbers = record.asset_materialization.metadata.items()
            figures[name] = {
                key: one.value
                for key, one in numbers
                if isinstance(one, dg.IntMetadataValue | dg.FloatMetadataValue) and not key.startswith("dagster/")
            }
    assert all(check.passed for check in result.get_asset_check_evaluations())
    assert all(len(one) <= PLOTTED for one in figures.values())
    assert figures["data_health"]["rows"] == 117
    assert figures["model_health"]["refused_requests"] == 3
    assert figures["model_health"]["label_coverage"] == 1.0


def test_before_the_first_window_every_check_passes():
    assert set(passed(data_checks(None)).values()) == {True}
    assert set(passed(model_checks(health_spec(), [])).values()) == {True}


def test_drift_is_told_beside_a_broken_feed(data: list[DataHealth]):
    """Where a feed was broken, the verdict was no longer that of drift, and the check of drift once passed."""
    assert data[-1].verdict == "unhealthy"
    checks = passed(data_checks(data[-1]))
    assert (checks["feeds_are_sound"], checks["drift"]) == (False, False)
    assert set(passed(data_checks(data[0])).values()) == {True}


def test_what_weighs_little_is_no_drift_whatever_the_volume(data: list[DataHealth]):
    """A window with half its rows and a small difference in one feature once failed the check of drift too."""
    sound = data[0]
    assert sound.drift is not None
    half = msgspec.structs.replace(sound.drift, volume=VolumeReport(150, 300.0, 0.5, True, "150 rows came"))
    newest = msgspec.structs.replace(sound, verdict="degrading", culprits=("night",), drift=half)
    checks = passed(data_checks(newest))
    assert (checks["volume"], checks["drift"]) == (False, True)


def test_a_verdict_written_before_drift_was_named_can_be_read(data: list[DataHealth]):
    written = msgspec.json.decode(msgspec.json.encode(data[-1]))
    del written["drifted"]
    assert msgspec.convert(written, DataHealth).drifted == ()


def test_requests_that_were_not_valid_fail_the_check_of_the_service():
    """A caller that had changed what it sends was once no concern of the check."""
    check = served(ServiceRecord(100, 40, 0, 0, 1.0, 2.0))
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == (
        f"{WINDOW}: 40 of 100 requests were not valid (40.0%): has a caller changed what it sends?"
    )


def test_the_check_of_the_service_follows_the_rule_of_the_verdict():
    few = served(ServiceRecord(1000, 2, 3, 4, 1.0, 2.0))
    assert few.passed
    assert few.description == f"{WINDOW}: of 1000 requests 2 were not valid, 3 failed and 4 were turned away"
    most = served(ServiceRecord(100, 0, 60, 0, 1.0, 2.0))
    assert (most.passed, most.severity) == (False, dg.AssetCheckSeverity.ERROR)


def test_decay_and_a_dry_label_feed_fail_their_checks():
    history: list[ModelHealth] = model_windows(9, 6)
    decayed = next(one for one in reversed(history) if one.decayed)
    until = history[: history.index(decayed) + 1]
    assert passed(model_checks(health_spec(), until)) == {"performance": False, "labels_arrive": True, "service": True}
    cohort = msgspec.structs.replace(until[-1].cohort, labelled=20)
    dry = [*until[:-1], msgspec.structs.replace(until[-1], cohort=cohort)]
    assert not passed(model_checks(health_spec(), dry))["labels_arrive"]
