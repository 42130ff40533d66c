"""A lifecycle run does what it is asked to do otherwise than declared, in every asset."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.core.ledger import Decided, Ended, Entry, Fact
from mlops_assets.operations import release
from mlops_assets.operations.carry_out import DECISION_TAG
from mlops_assets.operations.confirm import NotEverywhere
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.train import Candidate
from mlops_assets_tests.assets.lifecycle import LIVE_FROM, Run, make_rows, make_spec, run_lifecycle


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    make_rows().to_parquet(path, index=False)
    return path


def candidate_of(run: Run) -> Candidate:
    one: Candidate = run.stores.lake.read_document("delay", "trained_model", Candidate)
    return one


def test_a_window_and_features_left_out_reach_the_model_in_service(home: Path, table: Path) -> None:
    run = run_lifecycle(make_spec(table), home, asked={"trigger": "feed", "without": ["wind"], "window": "40d"})
    assert run.result.success, run.failure()
    assert candidate_of(run).plan.dropped == ("wind",)
    assert (LIVE_FROM - candidate_of(run).training_start).days in (39, 40)
    plan = Stores(run.stores.home).releases.current("delay")
    assert plan is not None
    manifest = run.stores.bundles.get(plan.champion.bundle).manifest
    assert manifest.imputation.dropped == ("wind",)
    assert (LIVE_FROM - manifest.training_start).days in (39, 40)


def test_what_drift_asks_for_must_be_better_than_the_champion_that_an_attempt_before_has_not_released(
    home: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a version that was released and not yet everywhere, the second attempt said that it was no better than the champion."""
    spec, drift = make_spec(table), {"asked": {"trigger": "drift"}, "tags": {DECISION_TAG: "d-1"}}
    first = run_lifecycle(spec, home, as_of="2024-02-20T00:00:00Z", asked={"trigger": "feed", "without": ["wind"]})
    assert first.result.success, first.failure()
    ledger, now = first.stores.ledger, datetime.now(UTC)

    def tell(fact: Fact) -> None:
        ledger.record(Entry("delay", "d-1", fact, "sensor:delay_response", now))

    def late(*given: Any) -> Any:
        raise NotEverywhere("release 2 is not loaded by w (release 1)")

    tell(Decided("retrain", "auto", "it drifts", details={"trigger": "drift"}))
    with monkeypatch.context() as patch:
        patch.setattr(release, "confirm", late)
        failed = run_lifecycle(spec, home, **drift)
    assert "it stays in force, run it again to wait for them" in failed.failure()
    tell(Ended("failed", 1, failed.result.run_id, failed.failure()))
    made = first.stores.releases.current("delay")
    assert made is not None
    again = run_lifecycle(spec, home, selection=["evaluation", "deployed_bento"], **drift)
    assert again.result.success, again.failure()
    assert first.stores.releases.current("delay") == made
    assert first.stores.registry.aliased("delay", "champion") == made.champion.version

    nobodys = run_lifecycle(spec, home, selection=["evaluation", "deployed_bento"])
    assert not nobodys.result.success
    assert nobodys.failed_checks == {"brier_not_worse_than_champion"}, (
        "by now it is the champion, and no better than that"
    )
    assert run_lifecycle(spec, home, asked={"trigger": "performance"}).result.success, "the margin counts again"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"trigger": "boredom"}, "trigger 'boredom' is none: write one of hand, schedule, performance, drift, feed"),
        ({"window": "three weeks"}, "window 'three weeks' is no duration: write it like '90d'"),
        ({"window": "0d"}, "window '0d' is no duration"),
        ({"without": ["snow"]}, "without: model 'delay' cannot be trained without 'snow'; choose of carrier, temp"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_with_its_remedy(
    home: Path, table: Path, asked: dict[str, Any], said: str
) -> None:
    run = run_lifecycle(make_spec(table), home, asked=asked)
    assert said in run.failure()
