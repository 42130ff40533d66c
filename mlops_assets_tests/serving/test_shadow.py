"""Rows of several requests that are scored in shadow together: as one by one, and none pays for what is in another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.core.scoring.load import load_scorer
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.serving.shadow import ShadowJob
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest
from mlops_assets_tests.serving.test_trials import FEATURES
from mlops_assets_tests.serving.trials import LIMITS, break_version, changed, loaded, trial_of

REQUESTS = 40


class Counting:
    """The scorer of a version, which notes how many rows come at a time, and refuses a temp of 13 degrees."""

    features, outputs = small_model().features, 2

    def __init__(self, trouble: type[Exception] = ScorerError) -> None:
        model = small_model(version=2)
        self._scorer = load_scorer(model.manifest, model.files)
        self._trouble = trouble
        self.sizes: list[int] = []

    def score_rows(self, rows: Any) -> Any:
        self.sizes.append(len(rows))
        if any(13.0 in row for row in rows):
            raise self._trouble("a temp of 13 degrees")
        return self._scorer.score_rows(rows)

    def score_row(self, row: Any) -> Any:
        return self.score_rows([row])[0].tolist()

    def warm_up(self) -> None:
        pass


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppUnderTest]:
    home = Home(tmp_path / "home")
    release(home, small_model())
    with AppUnderTest(home) as app:
        changed(app, challenger=trial_of(app.home, 2, "shadow", 1.0), breaker=LIMITS)
        yield app


def shadowed_together(app: AppUnderTest, temps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer a request for each, and let what is scored in shadow wait until all have been answered."""
    jobs: list[ShadowJob] = []
    with monkeypatch.context() as patched:
        patched.setattr(app.runtime.shadows, "offer", jobs.append)
        for place, temp in enumerate(temps):
            assert app.predict({**FEATURES, "temp": temp}, id=f"request {place}").status_code == 200
    for job in jobs:
        app.runtime.shadows.offer(job)
    app.shadowed()


def test_requests_that_wait_are_scored_together_and_recorded_one_by_one(
    app: AppUnderTest, monkeypatch: pytest.MonkeyPatch
):
    scorer = Counting()
    break_version(app, "challenger", scorer)
    temps = [20.0 + place for place in range(REQUESTS)]
    shadowed_together(app, temps, monkeypatch)
    assert scorer.sizes == [34, 6], "the more wait, the more at a time"
    shadows = {one.id: one for one in app.predictions() if one.role == "shadow"}
    answers = {one.id: one for one in app.predictions() if one.role == "champion"}
    assert len(shadows) == len(answers) == REQUESTS
    for place, temp in enumerate(temps):
        (alone,) = scorer.score_rows([(temp, 100.0, False, "AA", "JFK", 1000.0)])
        one = shadows[f"request {place}"]
        assert (one.version, one.status, one.error) == (2, 200, None)
        assert one.output == pytest.approx(alone, abs=1e-12)
        assert one.features == answers[one.id].features
        assert one.event_time == answers[one.id].event_time
    app.wait_for(lambda: loaded(app.home).challenger.counts.answered == REQUESTS)  # type: ignore[union-attr]


@pytest.mark.parametrize("trouble", [ScorerError, RuntimeError])
def test_one_that_cannot_be_scored_is_the_only_one(
    app: AppUnderTest, monkeypatch: pytest.MonkeyPatch, trouble: type[Exception]
):
    break_version(app, "challenger", Counting(trouble))
    shadowed_together(app, [20.0, 13.0, 21.0, 22.0], monkeypatch)
    shadows = {one.id: one.status for one in app.predictions() if one.role == "shadow"}
    assert shadows == {"request 0": 200, "request 1": 500, "request 2": 200, "request 3": 200}
    app.wait_for(lambda: loaded(app.home).challenger.counts.failed == 1)  # type: ignore[union-attr]
    assert loaded(app.home).challenger.counts.answered == 3  # type: ignore[union-attr]
