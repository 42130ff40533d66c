import numpy as np
import pandas as pd
import pytest

from mlops_assets.core.monitoring.importance import permutation_importance

random = np.random.default_rng(0)
ROWS = pd.DataFrame(
    {
        "much": random.normal(size=500),
        "little": random.normal(size=500),
        "nothing": random.choice(["a", "b", None], 500),
    }
)
TRUTH = 3 * ROWS["much"] + ROWS["little"]


def answer(rows: pd.DataFrame) -> np.ndarray:
    return (3 * rows["much"] + rows["little"]).to_numpy()[:, None]


def loss(output: np.ndarray) -> float:
    return float(np.abs(output[:, 0] - TRUTH).mean())


def test_a_feature_counts_by_what_shuffling_it_costs():
    shares = permutation_importance(answer, loss, ROWS, seed=1)
    assert shares["much"] == pytest.approx(0.75, abs=0.05)
    assert shares["little"] == pytest.approx(0.25, abs=0.05)
    assert shares["nothing"] == 0
    assert sum(shares.values()) == pytest.approx(1)
    assert shares == permutation_importance(answer, loss, ROWS, seed=1)


def test_a_model_that_leans_on_nothing_weighs_all_alike():
    shares = permutation_importance(lambda rows: np.zeros((len(rows), 1)), loss, ROWS, seed=1)
    assert set(shares.values()) == {1 / 3}
