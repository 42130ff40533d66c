"""Waiting for what becomes of a trial: the rollout is real, its traffic is made up, and no service runs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_assets.core.rollout import Origin, promoted
from mlops_assets.drills.stage import DrillFailed, Stage
from mlops_assets.drills.trials import breaker_opened, ended, last_look_at, lookalike, to_canary, trial_of
from mlops_assets.drills.trials import promoted as wait_until_promoted
from mlops_assets.stores.workers import BreakerReport, LoadedRelease, LoadedVersion, WorkerState
from mlops_assets_tests.operations.trial_examples import CANARY, SHADOW, Trying
from mlops_assets_tests.serving.factory import small_model


@dataclass
class NoService:
    """A system of which only the stores are there."""

    stores: Any
    url: str = "http://127.0.0.1:9"
    ground: Any = None


@dataclass
class TryingStage(Stage):
    """Days that are sent are logged with their labels, and looked at; the challenger is right with this probability."""

    trying: Trying | None = None
    right: float = 0.9
    sent: list[int] = field(default_factory=list)

    def send(self, rows: pd.DataFrame) -> Any:
        assert self.trying is not None
        self.sent.append(len(rows))
        self.trying.log(len(rows), champion=0.75, challenger=self.right)
        self.trying.advance()

    def label(self, traffic: Any, until: datetime | None = None, late: timedelta | None = None) -> int:
        return 0


def stage_of(tmp_path: Path, right: float = 0.9, **release: Any) -> TryingStage:
    trying = Trying(tmp_path, **release)
    system = NoService(trying.stores)
    return TryingStage(trying.spec, system, lambda _: None, trying=trying, right=right)  # type: ignore[arg-type]


def days(count: int, rows: int = 1_200) -> Iterator[pd.DataFrame]:
    return (pd.DataFrame(index=range(rows)) for _ in range(count))


def test_what_is_released_at_once_needs_no_traffic(tmp_path: Path):
    stage = stage_of(tmp_path, strategy="immediate")
    assert stage.trying is not None
    entrant = stage.trying.bundled(2)
    now = datetime.now(UTC)
    stage.stores.releases.publish(promoted(stage.plan(), entrant, now, Origin("r-2", "it passed", "run:x", now)))
    assert wait_until_promoted(stage, 1, days(5)) == 2
    assert stage.sent == []


def test_a_version_on_trial_is_sent_days_until_it_is_promoted_and_no_more(tmp_path: Path):
    stage = stage_of(tmp_path, **{**SHADOW, "strategy": "shadow"})
    assert stage.trying is not None
    stage.trying.start(2)
    later = days(30)
    assert wait_until_promoted(stage, 1, later) == 2
    assert stage.champion() == 2
    assert len(stage.sent) + len(list(later)) == 30
    assert "promoted: " in stage.steps[-1].what


def test_a_version_that_is_dismissed_fails_who_waits_for_it_and_says_why(tmp_path: Path):
    stage = stage_of(tmp_path, right=0.3, **{**SHADOW, "strategy": "shadow"})
    assert stage.trying is not None
    stage.trying.start(2)
    with pytest.raises(DrillFailed, match=r"version 2 was not promoted: dismiss, quality worse"):
        wait_until_promoted(stage, 1, days(30))
    over = ended(stage, 2)
    assert over is not None
    looked = last_look_at(stage, over)
    assert looked is not None
    assert over.stepped_at is not None
    assert looked <= over.stepped_at


def test_a_lookalike_comes_into_the_first_share_of_the_canary(tmp_path: Path):
    stage = stage_of(tmp_path, **CANARY)
    tried = lookalike(stage, 7)
    changed = to_canary(stage, tried)
    challenger = changed.plan.challenger
    assert challenger is not None
    assert (challenger.version, challenger.mode, challenger.share) == (7, "canary", 0.2)
    bundle = stage.stores.bundles.get(challenger.bundle)
    assert (bundle.manifest.version, bundle.files.keys()) == (7, small_model().files.keys())
    assert trial_of(stage, 7) is None, "the rollout has not looked yet"


def test_a_breaker_that_has_opened_is_seen_in_a_workers_report(tmp_path: Path):
    stage = stage_of(tmp_path, **CANARY)
    plan, now = stage.plan(), datetime.now(UTC)

    def report(trips: int) -> None:
        breaker = BreakerReport("open", trips, "too slow")
        loaded = LoadedVersion(2, "sha256:x", "challenger", breaker=breaker)
        release = LoadedRelease(plan.release, 1, plan.champion.bundle, now, challenger=loaded)
        stage.stores.workers.report(WorkerState("w", 1, "another-host", now, now, {"delay": release}, {}))

    report(0)
    assert breaker_opened(stage, 2) is None
    report(1)
    assert breaker_opened(stage, 2) == "too slow"
    assert breaker_opened(stage, 3) is None
