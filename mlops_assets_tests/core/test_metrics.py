from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from mlops_assets.core.metrics import METRICS, decide, expected_calibration_error, metrics_of, quantile_bins

RANDOM = np.random.default_rng(3)
ROWS = 400
BINARY_TRUTH = RANDOM.integers(0, 2, ROWS).astype(float)
POSITIVE = np.clip(BINARY_TRUTH * 0.3 + RANDOM.random(ROWS) * 0.7, 0.01, 0.99)
BINARY = np.column_stack([1 - POSITIVE, POSITIVE])
MULTI_TRUTH = RANDOM.integers(0, 3, ROWS).astype(float)
MULTI = RANDOM.dirichlet([1, 1, 1], ROWS) * 0.5 + np.eye(3)[MULTI_TRUTH.astype(int)] * 0.5
VALUES_TRUTH = RANDOM.normal(100, 20, ROWS)
VALUES = (VALUES_TRUTH + RANDOM.normal(0, 5, ROWS)).reshape(-1, 1)
CUT = 0.4
HARD = (POSITIVE >= CUT).astype(int)
ARGMAX = MULTI.argmax(axis=1)

EXPECTED = {
    ("roc_auc", "binary"): sk.roc_auc_score(BINARY_TRUTH, POSITIVE),
    ("brier", "binary"): sk.brier_score_loss(BINARY_TRUTH, POSITIVE),
    ("log_loss", "binary"): sk.log_loss(BINARY_TRUTH, POSITIVE),
    ("accuracy", "binary"): sk.accuracy_score(BINARY_TRUTH, HARD),
    ("average_precision", "binary"): sk.average_precision_score(BINARY_TRUTH, POSITIVE),
    ("precision", "binary"): sk.precision_score(BINARY_TRUTH, HARD),
    ("recall", "binary"): sk.recall_score(BINARY_TRUTH, HARD),
    ("f1", "binary"): sk.f1_score(BINARY_TRUTH, HARD),
    ("roc_auc", "multiclass"): sk.roc_auc_score(MULTI_TRUTH, MULTI, multi_class="ovr"),
    ("brier", "multiclass"): ((MULTI - np.eye(3)[MULTI_TRUTH.astype(int)]) ** 2).sum() / ROWS,
    ("log_loss", "multiclass"): sk.log_loss(MULTI_TRUTH, MULTI),
    ("accuracy", "multiclass"): sk.accuracy_score(MULTI_TRUTH, ARGMAX),
    ("balanced_accuracy", "multiclass"): sk.balanced_accuracy_score(MULTI_TRUTH, ARGMAX),
    ("f1_macro", "multiclass"): sk.f1_score(MULTI_TRUTH, ARGMAX, average="macro"),
    ("mae", "regression"): sk.mean_absolute_error(VALUES_TRUTH, VALUES),
    ("mse", "regression"): sk.mean_squared_error(VALUES_TRUTH, VALUES),
    ("rmse", "regression"): sk.root_mean_squared_error(VALUES_TRUTH, VALUES),
    ("median_absolute_error", "regression"): sk.median_absolute_error(VALUES_TRUTH, VALUES),
    ("r2", "regression"): sk.r2_score(VALUES_TRUTH, VALUES),
}
DATA = {"binary": (BINARY_TRUTH, BINARY), "multiclass": (MULTI_TRUTH, MULTI), "regression": (VALUES_TRUTH, VALUES)}


@pytest.mark.parametrize(("name", "task"), EXPECTED)
def test_a_metric_is_scikit_learns(name: str, task: str) -> None:
    assert METRICS[name].score(*DATA[task], CUT) == pytest.approx(EXPECTED[name, task], rel=1e-12)


def test_every_metric_of_every_task_is_checked() -> None:
    checked = {*EXPECTED, ("calibration_error", "binary")}
    assert checked == {(name, task) for task in DATA for name in metrics_of(task)}  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "task"), [pair for pair in EXPECTED if METRICS[pair[0]].is_mean])
def test_the_rows_of_a_mean_have_that_mean(name: str, task: str) -> None:
    metric = METRICS[name]
    assert metric.rows is not None
    rows = metric.rows(*DATA[task], CUT)
    assert rows.shape == (ROWS,)
    assert rows.mean() == metric.score(*DATA[task], CUT)


@pytest.mark.parametrize(("name", "task"), EXPECTED)
def test_each_metric_knows_which_way_is_better(name: str, task: str) -> None:
    truth, output = DATA[task]
    worse = output[::-1]
    metric = METRICS[name]
    assert metric.better(metric.score(truth, output, CUT), metric.score(truth, worse, CUT))


def test_the_threshold_itself_is_positive_and_the_first_of_equal_classes_is_taken() -> None:
    assert decide(np.array([[0.6, 0.4], [0.61, 0.39]]), 0.4).tolist() == [1, 0]
    assert decide(np.array([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]), 0.4).tolist() == [0, 2]


@pytest.mark.parametrize(("name", "truth"), [("roc_auc", 0.0), ("roc_auc", 1.0), ("average_precision", 0.0)])
def test_what_one_class_alone_cannot_tell_is_not_a_number(name: str, truth: float) -> None:
    assert np.isnan(METRICS[name].score(np.full(5, truth), np.tile([0.4, 0.6], (5, 1)), 0.5))


def test_a_certain_and_wrong_answer_costs_a_finite_log_loss() -> None:
    assert 30 < METRICS["log_loss"].score(np.array([1.0]), np.array([[1.0, 0.0]]), 0.5) < 40


def test_the_calibration_error_by_hand() -> None:
    truth = np.array([0, 0, 1, 1.0])
    positive = np.array([0.1, 0.2, 0.6, 0.9])
    assert expected_calibration_error(truth, np.column_stack([1 - positive, positive]), bins=2) == pytest.approx(
        (abs(0.15 - 0) * 2 + abs(0.75 - 1) * 2) / 4
    )


def test_the_calibration_error_follows_scikit_learns_curve() -> None:
    realised, stated = calibration_curve(BINARY_TRUTH, POSITIVE, n_bins=10, strategy="quantile")
    assert expected_calibration_error(BINARY_TRUTH, BINARY) == pytest.approx(np.abs(realised - stated).mean(), abs=2e-3)


def test_the_calibration_error_of_a_constant_answer_does_not_depend_on_the_order_of_rows() -> None:
    """Equal answers were once cut apart in the order of rows, so that the base rate itself looked badly calibrated."""
    truth = np.repeat([0.0, 1.0], 50)
    half = np.full((100, 2), 0.5)
    assert expected_calibration_error(truth, half) == 0.0
    assert expected_calibration_error(truth[::-1], half) == 0.0


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_quantile_bins_part_the_values_and_keep_equal_ones_together(numbers: list[int], bins: int) -> None:
    values = np.array(numbers, dtype=float)
    parts = quantile_bins(values, bins)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(values)))
    assert 1 <= len(parts) <= bins
    held = [set(values[part]) for part in parts]
    assert all(max(first) < min(second) for first, second in pairwise(held))


def test_quantile_bins_of_different_values_are_of_one_size() -> None:
    assert [len(part) for part in quantile_bins(RANDOM.random(100), 10)] == [10] * 10
