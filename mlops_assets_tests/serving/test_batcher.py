"""Rows of several requests scored together, and answers that are kept."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.serving.batcher import BATCH_ROWS, Batcher, Batchers
from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.state import LiveModel
from mlops_assets.serving.tallies import flush_tallies
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import answered_outputs, release, small_model
from mlops_assets_tests.serving.harness import AppUnderTest


class Gated:
    """A scorer that doubles one number a row, and works when it is let; it refuses `bad`."""

    features, outputs = ("x",), 1

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.batches: list[int] = []

    def score_rows(self, rows: Sequence[Sequence[Any]]) -> Any:
        self.batches.append(len(rows))
        assert self.gate.wait(20)
        if any(row[0] == "bad" for row in rows):
            raise ScorerError("a row is refused")
        return np.array([[row[0] * 2.0] for row in rows])

    def score_row(self, row: Any) -> Any:
        return self.score_rows([row])[0].tolist()

    def warm_up(self) -> None:
        pass


def gathered(run: Callable[[Batcher, Gated], Awaitable[Any]], waiting_rows: int = 10_000) -> tuple[Any, Gated]:
    scorer = Gated()

    async def go() -> Any:
        with ThreadPoolExecutor(2) as pool:
            try:
                return await run(Batcher("delay", scorer, pool, waiting_rows), scorer)
            finally:
                scorer.gate.set()

    return asyncio.run(go()), scorer


async def begun(batcher: Batcher, *requests: list[Any]) -> list[asyncio.Task[Any]]:
    """Requests that have been put to the scorer or wait for it."""
    tasks = [asyncio.create_task(batcher.score([(value,) for value in request])) for request in requests]
    await asyncio.sleep(0)
    return tasks


def test_what_comes_while_a_batch_is_scored_is_the_next_batch():
    async def run(batcher: Batcher, scorer: Gated) -> list[Any]:
        tasks = await begun(batcher, [1.0], [2.0, 3.0], [4.0], [5.0])
        scorer.gate.set()
        return [scored.outputs for scored in await asyncio.gather(*tasks)]

    outputs, scorer = gathered(run)
    assert outputs == [[[2.0]], [[4.0], [6.0]], [[8.0]], [[10.0]]]
    assert scorer.batches == [1, 4]


def test_a_row_that_is_refused_fails_its_own_request_alone():
    async def run(batcher: Batcher, scorer: Gated) -> list[Any]:
        tasks = await begun(batcher, [1.0], [2.0], ["bad"], [3.0])
        scorer.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    (first, second, refused, last), scorer = gathered(run)
    assert [one.outputs for one in (first, second, last)] == [[[2.0]], [[4.0]], [[6.0]]]
    assert isinstance(refused, ScorerError)
    assert scorer.batches == [1, 3, 1, 1, 1]


def test_no_more_rows_wait_than_may_and_the_others_are_answered():
    async def run(batcher: Batcher, scorer: Gated) -> list[Any]:
        tasks = await begun(batcher, [1.0], [2.0, 3.0], [4.0], [5.0])
        scorer.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers, _ = gathered(run, waiting_rows=3)
    assert [one.outputs for one in answers[:3]] == [[[2.0]], [[4.0], [6.0]], [[8.0]]]
    assert isinstance(answers[3], Refusal)
    assert (answers[3].status, answers[3].headers) == (503, ((b"retry-after", b"1"),))


@pytest.mark.parametrize(("role", "turned_away"), [("champion", 1), ("challenger", 0)])
def test_what_a_challenger_has_no_room_for_is_not_turned_away(home: Home, role: Any, turned_away: int):
    """A request that found the queue of a challenger full was counted as turned away, and the champion answered it."""
    release(home, small_model(compiled=False))

    def shed() -> float:
        flush_tallies()
        return REGISTRY.get_sample_value("mlops_shed_requests_total", {"model": "delay", "reason": "queue"}) or 0.0

    async def fill(live: LiveModel) -> list[Any]:
        with ThreadPoolExecutor(1) as pool:
            batchers = Batchers(pool, waiting_rows=1)
            rows = [live.golden.rows[0]]
            return await asyncio.gather(*(batchers.score(live, rows) for _ in range(3)), return_exceptions=True)

    with AppUnderTest(home) as app:
        live, before = replace(app.runtime.state.snapshot.models["delay"], role=role), shed()
        answers = app._runner.run(fill(live))
        assert [isinstance(answer, Refusal) for answer in answers] == [False, False, True]
        assert shed() == before + turned_away


def test_batches_are_bounded_and_a_large_request_stays_whole():
    async def run(batcher: Batcher, scorer: Gated) -> list[Any]:
        tasks = await begun(batcher, [1.0], [1.0] * BATCH_ROWS, [2.0], [3.0] * (BATCH_ROWS + 5))
        scorer.gate.set()
        return await asyncio.gather(*tasks)

    _, scorer = gathered(run)
    assert scorer.batches == [1, BATCH_ROWS, 1, BATCH_ROWS + 5]


def test_a_caller_who_has_left_costs_nothing_and_hurts_nobody():
    async def run(batcher: Batcher, scorer: Gated) -> list[Any]:
        tasks = await begun(batcher, [1.0], [2.0], [3.0])
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.sleep(0)
        scorer.gate.set()
        return [await tasks[2], (await begun(batcher, [4.0]))[0]]

    answers, scorer = gathered(run)
    assert answers[0].outputs == [[6.0]]
    assert scorer.batches[:2] == [1, 1]


def test_the_wait_that_is_told_grows_with_what_waits():
    async def run(batcher: Batcher, scorer: Gated) -> list[float]:
        scorer.gate.set()
        await (await begun(batcher, [1.0]))[0]
        waits = [batcher.wait_s()]
        scorer.gate.clear()
        tasks = await begun(batcher, [1.0], [1.0] * BATCH_ROWS, [1.0] * BATCH_ROWS, [1.0] * BATCH_ROWS)
        waits.append(batcher.wait_s())
        batcher._usual_s = 5.0
        waits.append(batcher.wait_s())
        scorer.gate.set()
        await asyncio.gather(*tasks)
        return waits

    (idle, busy, slow), _ = gathered(run)
    assert idle == 0.0
    assert busy > 0.0
    assert slow == pytest.approx(20.0, abs=1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def answers_together(app: AppUnderTest, rows: list[dict[str, Any]]) -> list[httpx.Response]:
    async def ask() -> list[httpx.Response]:
        headers = {"content-type": "application/json"}
        bodies = [msgspec.json.encode({"features": row}) for row in rows]
        posts = [app._client.post("/v1/models/delay/predict", content=body, headers=headers) for body in bodies]
        return await asyncio.gather(*posts)

    return app._runner.run(ask())


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_answers_in_batches_are_those_of_each_row(home: Home, task: Any):
    model = small_model(task=task, compiled=False)
    release(home, model)
    with AppUnderTest(home) as app:
        scorer, sizes = app.runtime.state.snapshot.models["delay"].scorer, []
        score_rows = scorer.score_rows
        scorer.score_rows = lambda rows: (sizes.append(len(rows)), score_rows(rows))[1]  # type: ignore[method-assign]
        answers = answers_together(app, model.request_rows(60))
        assert len(app.predictions()) == 60
    outputs = [answered_outputs(model, answer.json()) for answer in answers]
    np.testing.assert_allclose(outputs, model.expected(60), rtol=0, atol=1e-12)
    assert sum(sizes) == 60
    assert max(sizes) > 1


class TestCache:
    @pytest.fixture
    def app(self, home: Home) -> Iterator[AppUnderTest]:
        release(home, small_model())
        with AppUnderTest(home, cache_rows=2) as app:
            yield app

    def asked(self, app: AppUnderTest) -> list[int]:
        """An entry for each single row that the model itself has been asked for."""
        scorer, asked = app.runtime.state.snapshot.models["delay"].scorer, []
        score_row = scorer.score_row
        scorer.score_row = lambda row: (asked.append(1), score_row(row))[1]  # type: ignore[method-assign]
        return asked

    def test_the_same_row_is_answered_and_logged_without_asking(self, app: AppUnderTest):
        asked, (one, *_) = self.asked(app), small_model().request_rows(1)
        answers = [app.predict(one).json() for _ in range(3)]
        assert len({answer["prediction_id"] for answer in answers}) == 3
        assert {answer["probability"] for answer in answers} == {answers[0]["probability"]}
        assert asked == [1]
        assert len(app.predictions()) == 3

    def test_what_nobody_asked_for_longest_is_forgotten(self, app: AppUnderTest):
        asked, rows = self.asked(app), small_model().request_rows(3)
        for place in (0, 1, 0, 2, 0, 1):
            app.predict(rows[place])
        assert len(asked) == 4

    def test_a_release_forgets_all(self, app: AppUnderTest, home: Home):
        row = small_model().request_rows(1)[0]
        first = app.predict(row).json()["probability"]
        release(home, small_model(version=2))
        app.wait_for(lambda: app.runtime.state.snapshot.models["delay"].manifest.version == 2)
        expected = small_model(version=2).pipeline.predict_proba(
            small_model().fresh[list(small_model().features)].head(1)
        )
        assert app.predict(row).json()["probability"] == pytest.approx(expected[0, 1], abs=1e-12)
        assert app.predict(row).json()["probability"] != first

    def test_it_is_off_unless_asked_for(self, tmp_path: Path):
        home = Home(tmp_path / "other")
        release(home, small_model())
        with AppUnderTest(home) as app:
            asked, row = self.asked(app), small_model().request_rows(1)[0]
            app.predict(row)
            app.predict(row)
            assert asked == [1, 1]
