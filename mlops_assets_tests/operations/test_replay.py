"""Policies on a small history in which the world changes: who trains, when, and what that is worth."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.replay import FOUR_WEEKLY, NEVER, WEEKLY, PolicyResult, policies_of, replay, replay_all
from mlops_assets.operations.replay.figure import replay_figure

LIVE = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
BEFORE, AFTER, A_DAY = 30, 31, 120
TURN = LIVE + 10 * DAY
DELAY = timedelta(days=2)


def history() -> pd.DataFrame:
    """A value that follows its feature until the world turns, and then follows it otherwise."""
    random = np.random.default_rng(3)
    rows = (BEFORE + AFTER) * A_DAY
    at = pd.Series([LIVE - BEFORE * DAY + timedelta(minutes=12 * n) for n in range(rows)])
    size = random.uniform(0, 10, rows)
    slope = np.where(at >= TURN, 4.0, 2.0)
    return pd.DataFrame(
        {
            "parcel": [f"P{n}" for n in range(rows)],
            "asked_at": at,
            "size": size,
            "depot": random.choice(["north", "south"], rows),
            "hours": slope * size + random.normal(0, 1, rows),
        }
    )


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    table = Path(tmp_path_factory.mktemp("parcels")) / "parcels.parquet"
    history().to_parquet(table)
    return ModelSpec.model_validate(
        {
            "name": "parcels",
            "owner": "team:tests",
            "task": "regression",
            "source": {"table": str(table)},
            "entity_key": "parcel",
            "event_time": "asked_at",
            "live_from": LIVE.isoformat(),
            "label": {"column": "hours", "delay": "2d"},
            "features": [{"name": "size", "type": "number"}, {"name": "depot", "type": "category"}],
            "training": {
                "estimator": "sklearn.ensemble.HistGradientBoostingRegressor",
                "parameters": {"max_iter": 40},
                "window": "15d",
                "holdout": "4d",
            },
            "gates": [{"kind": "champion", "metric": "mae", "margin": 0.05}],
            "response": {"cooldown": "7d", "min_fresh_labels": 300},
        }
    )


@pytest.fixture(scope="module")
def results(spec: ModelSpec) -> dict[str, PolicyResult]:
    policies = tuple(one for one in policies_of(spec) if one.name != FOUR_WEEKLY)
    tried = replay_all(policies, LIVE, LIVE + AFTER * DAY, DELAY)
    return {one.policy: one for one in tried}


def test_never_trains_never_and_decays(results: dict[str, PolicyResult]) -> None:
    never = results[NEVER]
    assert (never.trainings, never.promotions, never.rollbacks, never.steps) == (0, 0, 0, ())
    before = [loss for window, loss in zip(never.windows, never.losses, strict=True) if window < "2024-03-11"]
    after = [loss for window, loss in zip(never.windows, never.losses, strict=True) if window >= "2024-03-11"]
    assert np.mean(before) == pytest.approx(0.85, abs=0.15)
    assert np.mean(after) > 5
    assert never.worst_loss == max(never.losses)
    assert sum(never.rows) == AFTER * A_DAY


def test_by_the_calendar_trains_by_the_calendar(results: dict[str, PolicyResult]) -> None:
    weekly = results[WEEKLY]
    assert weekly.trainings == AFTER // 7
    assert [step.now for step in weekly.steps] == [LIVE + 7 * number * DAY for number in range(1, AFTER // 7 + 1)]
    assert weekly.alerts_per_week is None


def test_the_declared_policy_finds_the_turn_and_trains_after_it(results: dict[str, PolicyResult]) -> None:
    declared, never, weekly = (results[name] for name in ("as declared", NEVER, WEEKLY))
    assert 1 <= declared.promotions <= declared.trainings <= weekly.trainings
    trained = next(step for step in declared.steps if step.action.startswith("train"))
    assert TURN < trained.now <= TURN + 10 * DAY
    assert declared.mean_loss < 0.6 * never.mean_loss
    assert declared.alerts_per_week is not None
    assert declared.alerts_per_week > 0


def test_before_the_turn_all_policies_answer_alike(results: dict[str, PolicyResult]) -> None:
    declared, never = results["as declared"], results[NEVER]
    assert declared.losses[:10] == never.losses[:10]


def test_the_same_history_gives_the_same_result(spec: ModelSpec, results: dict[str, PolicyResult]) -> None:
    again = replay(policies_of(spec)[0], LIVE, LIVE + AFTER * DAY, DELAY)
    assert (again.mean_loss, again.losses) == (results[NEVER].mean_loss, results[NEVER].losses)


def test_the_picture_names_every_policy(results: dict[str, PolicyResult]) -> None:
    axes = replay_figure(tuple(results.values())).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text().split(":")[0] for text in legend.get_texts()] == list(results)


def test_a_history_without_rows_says_so(spec: ModelSpec) -> None:
    with pytest.raises(ValueError, match="no rows from 2030"):
        replay(policies_of(spec)[0], datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 2, 1, tzinfo=UTC), DELAY)
