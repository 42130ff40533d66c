"""Two versions on the same rows: who is better, and when that may be said."""

import math

import numpy as np
import pytest

from mlops_assets.core.metrics import Floats
from mlops_assets.core.monitoring.rivals import CHANCE, compare_paired
from mlops_assets_tests.core.examples import make_spec, numbers_spec

SPEC = numbers_spec("x", monitoring={"floor": 0.1})


def answers(rows: int, seed: int, scale: float) -> tuple[Floats, Floats]:
    """Truths, and answers whose errors are normal with that scale."""
    random = np.random.default_rng(seed)
    truth = random.normal(0, 10, rows)
    return truth, (truth + random.normal(0, scale, rows))[:, None]


def test_a_rival_with_half_the_errors_is_better_and_the_other_way_round_it_is_not() -> None:
    truth, good = answers(500, 1, 1.0)
    bad = truth[:, None] + 2 * (good - truth[:, None])
    found = compare_paired(SPEC, truth, good, bad)
    assert found.is_better
    assert found.comparison.metric == "mae"
    assert found.comparison.rows == 500
    assert found.comparison.candidate == pytest.approx(2 * found.comparison.champion)
    assert found.comparison.loss.value == pytest.approx(found.comparison.champion)
    assert 0 < found.comparison.loss.low < found.comparison.loss.value < found.comparison.loss.high
    assert not compare_paired(SPEC, truth, bad, good).is_better


def test_the_same_answers_are_not_better() -> None:
    truth, output = answers(100, 1, 1.0)
    found = compare_paired(SPEC, truth, output, output)
    assert (found.is_better, found.comparison.loss.value) == (False, 0.0)


def test_what_is_below_the_floor_does_not_matter_however_sure_it_is() -> None:
    truth = np.zeros(10_000)
    rival, current = np.full((10_000, 1), 1.0), np.full((10_000, 1), 1.09)
    assert not compare_paired(SPEC, truth, rival, current).is_better
    assert compare_paired(SPEC, truth, rival, current + 0.02).is_better


def test_equally_good_rivals_are_seldom_called_better() -> None:
    spec = numbers_spec("x", monitoring={"floor": 0.0})
    random = np.random.default_rng(5)
    truth, trials = np.zeros(200), 4000
    better = sum(
        compare_paired(spec, truth, random.normal(0, 1, (200, 1)), random.normal(0, 1, (200, 1))).is_better
        for _ in range(trials)
    )
    assert better <= trials * CHANCE + 3 * math.sqrt(trials * CHANCE)


def test_rows_that_hang_together_make_it_less_sure() -> None:
    random = np.random.default_rng(2)
    truth = np.zeros(400)
    rival, current = random.normal(0, 1, (400, 1)), random.normal(0, 1.35, (400, 1))
    alone = compare_paired(SPEC, truth, rival, current)
    together = compare_paired(SPEC, truth, rival, current, overdispersion=9.0)
    assert (alone.is_better, together.is_better) == (True, False)
    loss, wider = alone.comparison.loss, together.comparison.loss
    assert wider.high - wider.value == pytest.approx(3 * (loss.high - loss.value))
    assert compare_paired(SPEC, truth, rival, current, overdispersion=0.1) == alone


def test_probabilities_are_compared_by_their_brier_score() -> None:
    truth = np.tile([0.0, 1.0, 1.0], 100)
    sure, unsure = np.where(truth[:, None] == [0, 1], 0.9, 0.1), np.full((300, 2), 0.5)
    found = compare_paired(make_spec(), truth, sure, unsure)
    assert found.is_better
    assert found.comparison.champion == pytest.approx(0.01)
    assert found.comparison.candidate == pytest.approx(0.25)


def test_one_row_proves_nothing() -> None:
    found = compare_paired(SPEC, np.zeros(1), np.zeros((1, 1)), np.ones((1, 1)))
    assert not found.is_better
    assert math.isnan(found.comparison.loss.low)


@pytest.mark.parametrize(("rows", "rival", "current"), [(0, 0, 0), (3, 2, 3), (3, 2, 2)])
def test_rows_that_are_not_the_same_cannot_be_paired(rows: int, rival: int, current: int) -> None:
    with pytest.raises(ValueError, match="compared on the same rows"):
        compare_paired(SPEC, np.zeros(rows), np.zeros((rival, 1)), np.zeros((current, 1)))
