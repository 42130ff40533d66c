"""Who is asked and what it counts for, beside canaries (`test_trials.py`) and champions that fail (`test_standing_in.py`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.core.rollout import Split
from mlops_assets.serving import asking
from mlops_assets.serving.asking import Part, Turn
from mlops_assets.serving.scoring import Block
from mlops_assets.serving.shedding import queue_full
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest
from mlops_assets_tests.serving.test_trials import ENTITIES, FEATURES
from mlops_assets_tests.serving.trials import changed, loaded, trial_of

INSIDE = Split("salt", 0.5)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppUnderTest]:
    home = Home(tmp_path / "home")
    release(home, small_model())
    with AppUnderTest(home) as app:
        yield app


def test_who_pins_a_version_is_never_answered_by_a_challenger(app: AppUnderTest):
    changed(app, challenger=trial_of(app.home, 2, "canary", 1.0))
    kinds = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "category": "BYTES"}
    inputs = [
        {"name": one.name, "datatype": kinds[one.type], "shape": [1], "data": [FEATURES[one.name]]}
        for one in small_model().manifest.features
    ]
    anyone = app.post("/v2/models/delay/infer", {"inputs": inputs}).json()
    pinned = app.post("/v2/models/delay/versions/1/infer", {"inputs": inputs}).json()
    assert (anyone["model_version"], pinned["model_version"]) == ("2", "1")


def test_a_challenger_that_cannot_keep_up_costs_its_callers_nothing(app: AppUnderTest, monkeypatch: pytest.MonkeyPatch):
    changed(app, challenger=trial_of(app.home, 2, "canary", 0.5))
    put_to = asking.put_to

    async def full(live: Any, rows: Any, means: Any) -> Block:
        if live.role == "challenger":
            raise queue_full("delay")
        return await put_to(live, rows, means)

    monkeypatch.setattr(asking, "put_to", full)
    rows = [{"features": FEATURES, "entity": entity} for entity in ENTITIES]
    reply = app.post("/v1/models/delay/predict", {"rows": rows})
    assert reply.status_code == 200
    assert {(one.role, one.status) for one in app.predictions()} == {("champion", 200)}
    assert all((one.error is not None) == INSIDE(one.entity or "") for one in app.predictions())
    app.wait_for(lambda: loaded(app.home).challenger.counts.failed == 1)  # type: ignore[union-attr]
    assert loaded(app.home).counts.shed == 0


def test_of_a_request_to_both_each_is_charged_with_its_own_scoring(app: AppUnderTest):
    changed(app, challenger=trial_of(app.home, 2, "canary", 0.5))
    champion = app.runtime.state.snapshot.models["delay"]
    challenger = champion.beside.challenger
    assert challenger is not None
    turn = Turn(champion)
    turn.parts = [
        Part(Block(challenger, [], [], [], 0.5), [], None),
        Part(Block(champion, [], [], [], 0.03), [], None),
        Part(Block(champion, [], [], [], 0.03), [], "the challenger did not answer"),
    ]
    turn.ended(200, 0.57)
    for live, limit_ms in ((champion, 70.0), (challenger, 700.0)):
        counts = live.counter.counts()
        assert (counts.answered, counts.slower_than(limit_ms)) == (1, 0)
        assert counts.slower_than(limit_ms / 2) == 1


def test_a_deadline_of_somebody_without_a_key_is_not_looked_at(tmp_path: Path):
    home = Home(tmp_path / "home")
    release(home, small_model())
    with AppUnderTest(home, auth="keys") as app:
        headers = {"content-type": "application/json", "x-request-deadline-ms": "1e-9"}
        reply = app.request("POST", "/v1/models/delay/predict", b"{}", **headers)
        assert reply.status_code == 401
        assert not app.runtime.shedder.learns
