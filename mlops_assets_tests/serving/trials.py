"""Plans with a challenger or a standby in a test's home, and versions that fail in the way a test asks for."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import numpy as np

from mlops_assets.core.rollout import BreakerLimits, Challenger, Release, ReleasePlan, Standby
from mlops_assets.serving.state import Beside, Place, Snapshot
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.releases import ReleaseStore
from mlops_assets_tests.serving.factory import SmallModel, small_model
from mlops_assets_tests.serving.harness import AppUnderTest
from mlops_assets_tests.serving.test_plans_obeyed import change, changed, loaded

LIMITS = BreakerLimits(min_requests=4, window=8, open_s=600.0, probes=2)  # open for longer than a test takes
SOON = BreakerLimits(min_requests=4, window=8, open_s=0.05, probes=2)

__all__ = [
    "LIMITS",
    "SOON",
    "Failing",
    "break_version",
    "change",
    "changed",
    "loaded",
    "release_of",
    "standby",
    "trial_of",
]


def release_of(home: Home, model: SmallModel) -> Release:
    """Store a version's bundle, without releasing it."""
    return Release(model.manifest.version, BundleStore(home.bundles).put(model.manifest, model.files))


def trial_of(home: Home, version: int, mode: Literal["shadow", "canary"], share: float) -> Challenger:
    stored = release_of(home, small_model(version=version))
    return Challenger(stored.version, stored.bundle, mode, share)


def standby(home: Home, version: int) -> Standby:
    stored = release_of(home, small_model(version=version))
    return Standby(stored.version, stored.bundle, datetime.now(UTC))


class Failing:
    """A scorer with a fault in its own code, or one whose arithmetic has gone wrong."""

    features, outputs = small_model().features, 2

    def __init__(self, how: Literal["error", "not finite"] = "error") -> None:
        self.how = how
        self.asked = 0

    def score_rows(self, rows: Any) -> Any:
        self.asked += 1
        if self.how == "error":
            raise RuntimeError("a fault")
        return np.full((len(rows), 2), np.nan)

    def score_row(self, row: Any) -> Any:
        return self.score_rows([row])[0].tolist()

    def warm_up(self) -> None:
        pass


def break_version(app: AppUnderTest, place: Place | Literal["champion"], scorer: Any) -> Any:
    """Let a loaded version be answered by another scorer; returns the one that it had."""
    state = app.runtime.state
    champion = state.snapshot.models["delay"]
    beside: Beside = champion.beside
    if place == "champion":
        former, broken = champion.scorer, replace(champion, scorer=scorer)
    else:
        one = beside.loaded[place]
        former, broken = one.scorer, replace(champion, beside=replace(beside, **{place: replace(one, scorer=scorer)}))
    state.snapshot = Snapshot({"delay": broken}, {})
    return former


def plan_of(home: Home) -> ReleasePlan:
    plan = ReleaseStore(home.releases).current("delay")
    assert plan is not None
    return msgspec.structs.replace(plan)
