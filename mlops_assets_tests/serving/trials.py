"""Plans with a challenger or a standby in a test's home, and versions that fail in the way a test asks for."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pytest

from mlops_assets.core.rollout import BreakerLimits, Challenger, Release, ReleasePlan, Standby
from mlops_assets.core.scoring.scorer import Scorer
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
    "Gated",
    "Path",
    "break_version",
    "change",
    "changed",
    "identical_to_champion",
    "loaded",
    "on_the_path",
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


class Gated:
    """A scorer that comes to no end until its gate is opened."""

    def __init__(self, scorer: Scorer) -> None:
        self.features, self.outputs = scorer.features, scorer.outputs
        self.open = Event()
        self._scorer = scorer

    def score_rows(self, rows: Any) -> Any:
        assert self.open.wait(60)
        return self._scorer.score_rows(rows)

    def score_row(self, row: Any) -> Any:
        return self.score_rows([row])[0].tolist()

    def warm_up(self) -> None:
        pass


class Watched:
    """A scorer that says when it is asked."""

    def __init__(self, scorer: Scorer, told: Callable[[], None]) -> None:
        self.features, self.outputs = scorer.features, scorer.outputs
        self._scorer, self._told = scorer, told

    def score_rows(self, rows: Any) -> Any:
        self._told()
        return self._scorer.score_rows(rows)

    def score_row(self, row: Any) -> Any:
        self._told()
        return self._scorer.score_row(row)

    def warm_up(self) -> None:
        pass


class Path(NamedTuple):
    """What was done for a request, before its answer was sent and after it, and the answer."""

    before: list[str]
    after: list[str]
    body: bytes


def on_the_path(app: AppUnderTest, request: dict[str, Any]) -> Path:
    """Ask once, and see what is done for it in which order."""
    told: list[str] = []
    body = b""
    champion = app.runtime.state.snapshot.models["delay"]
    for place, one in (("champion", champion), *champion.beside.loaded.items()):
        if place != "fallback":
            break_version(app, place, Watched(one.scorer, partial(told.append, f"the {place} scores")))  # type: ignore[arg-type]
    append = app.runtime.append_at_once

    def logged(records: Any) -> None:
        told.append(f"the {'shadow' if records[0].role == 'shadow' else 'answer'} is logged")
        append(records)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": msgspec.json.encode(request)}

    async def send(message: Any) -> None:
        nonlocal body
        told.append(message["type"])
        body += message.get("body", b"")

    scope = {"type": "http", "method": "POST", "path": "/v1/models/delay/predict", "headers": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.runtime, "append_at_once", logged)
        app._runner.run(app.app(scope, receive, send))
        app.shadowed()
    end = told.index("http.response.body") + 1
    return Path(told[:end], told[end:], body)


def identical_to_champion(home: Home) -> Challenger:
    """A version that answers as the first one does, in shadow."""
    one = small_model()
    other = release_of(home, replace(one, manifest=msgspec.structs.replace(one.manifest, version=2)))
    return Challenger(other.version, other.bundle, "shadow", 1.0)


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
