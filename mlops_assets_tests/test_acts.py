"""The first act goes for every strategy: what it shows of the new version comes after its trial, where there is one."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from mlops_assets import acts
from mlops_assets.core.ledger import Decided, Entry, Opened
from mlops_assets.core.rollout import Origin, promoted
from mlops_assets.drills.stage import DrillFailed
from mlops_assets_tests.drills.test_trials import TryingStage, stage_of

PER_DAY = 800


@pytest.fixture(autouse=True)
def _no_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "_losses", lambda *_: (1.0, 2.0))


def flights(stage: TryingStage, days: int) -> pd.DataFrame:
    times = pd.date_range(stage.spec.live_from, periods=days * PER_DAY, freq=f"{86_400 // PER_DAY}s")
    return pd.DataFrame({stage.spec.event_time: times})


def decided(stage: TryingStage) -> TryingStage:
    """Stage on which a training has been decided, since the model has decayed."""
    for subject, fact in (
        ("delay/performance/1", Opened("performance", "it has decayed", "critical")),
        ("d-1", Decided("retrain", "auto", "it has decayed", incidents=("delay/performance/1",))),
    ):
        stage.stores.ledger.record(Entry("delay", subject, fact, "sensor:delay_response", datetime.now(UTC)))
    return stage


def test_all_flights_show_a_version_that_is_released_at_once(tmp_path: Path):
    stage = decided(stage_of(tmp_path, strategy="immediate"))
    assert stage.trying is not None
    now, trying = datetime.now(UTC), stage.trying

    def released_meanwhile() -> None:
        origin = Origin("r-2", "it passed", "run:x", now)
        stage.stores.releases.publish(promoted(stage.plan(), trying.bundled(2), now, origin))

    stage.say = lambda line: released_meanwhile() if "decided: retrain" in line and stage.champion() == 1 else None
    acts.season(stage, flights(stage, 2))
    assert stage.sent == [2 * PER_DAY]


def test_the_first_flights_are_those_of_its_trial(tmp_path: Path):
    stage = decided(stage_of(tmp_path, strategy="shadow", shadow={"min_samples": 50}))
    assert stage.trying is not None
    stage.trying.start(2)
    acts.season(stage, flights(stage, 6))
    assert stage.champion() == 2
    assert sum(stage.sent) == 6 * PER_DAY
    assert stage.sent[0] == PER_DAY
    assert stage.sent[-1] > PER_DAY, "what is left is sent at once"


def test_a_version_that_its_trial_dismisses_fails_the_act(tmp_path: Path):
    stage = decided(stage_of(tmp_path, right=0.3, strategy="shadow", shadow={"min_samples": 50}))
    assert stage.trying is not None
    stage.trying.start(2)
    with pytest.raises(DrillFailed, match="version 2 was not promoted: dismiss"):
        acts.season(stage, flights(stage, 6))
