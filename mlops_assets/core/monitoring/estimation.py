"""How well does a model probably do on rows without labels? Calibrated probabilities tell the expected metrics (CBPE).

It sees changes of the inputs alone: where the inputs come to mean something else (concept drift), only labels tell.
"""

from collections.abc import Collection, Mapping
from math import nan, sqrt
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from mlops_assets.core.metrics import Floats, decide
from mlops_assets.core.monitoring.outcomes import if_outcome, mean_and_variance
from mlops_assets.core.spec import ModelSpec

BLIND_SPOT = "an estimate sees changes of the inputs, not of what they mean: only labels show concept drift"
REFIT_ROWS = 20_000
MIN_REFIT_ROWS = 2_000
_STANDARD_ERRORS = 3.0  # by which an estimate must be worse than the reference
_NO_SKILL = 0.5  # area under the curve of answers that know nothing
_EPS = 1e-6
_MEANS = ("log_loss", "brier", "accuracy")
_DECISIONS = ("precision", "recall", "f1")
ESTIMATED = (*_MEANS, "roc_auc", *_DECISIONS)


class Knots(msgspec.Struct, frozen=True):
    """A monotone, piecewise linear map: stated probability x, ascending, to calibrated probability y; constant beyond its ends."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class CalibrationMap(msgspec.Struct, frozen=True):
    """From stated to calibrated probabilities, one map a class (of two classes: of the positive one alone)."""

    classes: tuple[Knots, ...]
    rows: int

    def apply(self, output: Floats) -> Floats:
        """Calibrated probabilities, shape (n, K), of stated ones; rows sum to 1.

        Raises
        ------
        ValueError
            When the outputs have other classes than the map was fitted on.
        """
        expected = 2 if len(self.classes) == 1 else len(self.classes)
        if output.ndim != 2 or output.shape[1] != expected:
            raise ValueError(f"a calibration of {expected} classes does not go with outputs of shape {output.shape}")
        if expected == 2:
            positive = _interpolate(self.classes[0], output[:, 1])
            return np.column_stack([1 - positive, positive])
        chances = np.column_stack([_interpolate(knots, output[:, at]) for at, knots in enumerate(self.classes)])
        calibrated: Floats = chances / chances.sum(axis=1, keepdims=True)
        return calibrated


def _interpolate(knots: Knots, stated: Floats) -> Floats:
    return np.clip(np.interp(stated, knots.x, knots.y), _EPS, 1 - _EPS)


def fit_calibration(truth: Floats, output: Floats) -> CalibrationMap:
    """Isotonic calibration (Zadrozny and Elkan 2002) on rows that the model was not fitted on, one class against the rest.

    Parameters
    ----------
    truth
        Class codes, shape (n,).
    output
        Stated probabilities, shape (n, K).

    Raises
    ------
    ValueError
        When there is no row, or the outputs are no probabilities of two classes or more.
    """
    if output.ndim != 2 or output.shape[1] < 2 or not len(truth):
        raise ValueError(
            f"probabilities of at least one row and two classes are needed, not outputs of shape {output.shape}"
        )
    columns = [1] if output.shape[1] == 2 else range(output.shape[1])
    return CalibrationMap(tuple(_fit_knots(output[:, at], truth == at) for at in columns), len(truth))


def _fit_knots(stated: Floats, happened: NDArray[np.bool_]) -> Knots:
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(stated, happened.astype(np.float64))
    return Knots(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


def refit_calibration(
    truth: Floats, output: Floats, *, most: int = REFIT_ROWS, least: int = MIN_REFIT_ROWS
) -> CalibrationMap | None:
    """Calibrate anew on the newest rows whose labels have arrived, given in time order; None where they are too few.

    A class that never occurs in them leaves nothing to learn from: None as well.
    """
    truth, output = truth[-most:], output[-most:]
    if len(truth) < least or len(np.unique(truth)) < output.shape[1]:
        return None
    return fit_calibration(truth, output)


class Estimate(msgspec.Struct, frozen=True):
    """An expected metric, and the standard error with which the realised one will lie around it if the calibration holds."""

    value: float
    standard_error: float


def estimate_performance(
    output: Floats, calibrated: Floats, threshold: float = 0.5, metrics: Collection[str] = ESTIMATED
) -> dict[str, Estimate]:
    """Expected metrics of a classifier on rows without labels (confidence-based performance estimation).

    Every label is a draw from the calibrated probabilities. Means over rows have exact expectations and errors; ratios
    have those of their expected counts, by the delta method.

    Parameters
    ----------
    output
        Stated probabilities, shape (n, K): they decide and rank.
    calibrated
        Calibrated probabilities, shape (n, K): they tell what happens.
    threshold
        Decision threshold of a binary model.
    metrics
        Which of `ESTIMATED` are wanted.

    Returns
    -------
    dict
        By metric name; precision, recall and f1 for two classes only. A metric that is not defined (no positive expected,
        say) is NaN.
    """
    estimates: dict[str, Estimate] = {}
    for name in _MEANS:
        if name in metrics:
            estimates[name] = _mean(*mean_and_variance(if_outcome(name, output, threshold), calibrated))
    if "roc_auc" in metrics:
        estimates["roc_auc"] = _estimate_macro_auc(output, calibrated)
    if output.shape[1] == 2 and any(name in metrics for name in _DECISIONS):
        decisions = _estimate_decisions(decide(output, threshold) == 1, calibrated[:, 1])
        estimates.update({name: one for name, one in decisions.items() if name in metrics})
    return estimates


def _mean(values: Floats, variances: Floats) -> Estimate:
    n = len(values)
    return Estimate(float(values.mean()), sqrt(float(variances.sum())) / n) if n else Estimate(nan, nan)


def _estimate_macro_auc(output: Floats, calibrated: Floats) -> Estimate:
    if output.shape[1] == 2:
        return _estimate_auc(output[:, 1], calibrated[:, 1])
    areas = [_estimate_auc(output[:, at], calibrated[:, at]) for at in range(output.shape[1])]
    # areas of one class against the rest share their rows: at worst their errors add up
    return Estimate(float(np.mean([one.value for one in areas])), float(np.mean([one.standard_error for one in areas])))


def _estimate_auc(score: Floats, chance: Floats) -> Estimate:
    """Expected area under the ROC curve: expected concordant pairs over expected pairs, equal scores counting half.

    One sort; pairs of a row with itself are taken out. The error follows from the derivative by each row's label.
    """
    order = np.argsort(score)
    ordered, c = score[order], chance[order]
    n, itself = len(c), c * (1 - c)
    positive = float(c.sum())
    negative = n - positive
    pairs = positive * negative - float(itself.sum())
    if not pairs > 0:
        return Estimate(nan, nan)
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    below_positive = _below(c, first)
    below_negative = _below(np.ones(n), first) - below_positive
    area = (float(c @ below_negative) - float(itself.sum()) / 2) / pairs
    # a label that turns out positive gains the negatives below it and loses the positives above it
    gain = below_negative - (positive - below_positive) + c - 0.5
    slope = (gain - area * (negative - positive - (1 - 2 * c))) / pairs
    return Estimate(area, sqrt(float(itself @ slope**2)))


def _below(weight: Floats, first: NDArray[np.int64]) -> Floats:
    """Weight of the rows with a smaller score and half of that with an equal one; rows in order of score, `first` of each score."""
    if len(first) == len(weight):
        below: Floats = np.cumsum(weight) - weight / 2
        return below
    groups = np.add.reduceat(weight, first)
    return np.repeat(np.cumsum(groups) - groups / 2, np.diff(first, append=len(weight)))


def _estimate_decisions(decided: NDArray[np.bool_], chance: Floats) -> dict[str, Estimate]:
    hits, flagged, positives = chance[decided].sum(), float(decided.sum()), chance.sum()
    draw = chance * (1 - chance)
    at = decided.astype(np.float64)
    return {
        "precision": _ratio(hits, flagged, at, np.zeros_like(at), draw),
        "recall": _ratio(hits, positives, at, np.ones_like(at), draw),
        "f1": _ratio(2 * hits, flagged + positives, 2 * at, np.ones_like(at), draw),
    }


def _ratio(above: float, below: float, d_above: Floats, d_below: Floats, draw: Floats) -> Estimate:
    """Ratio of two sums that depend on the labels, and its error by the delta method."""
    if below <= 0:
        return Estimate(nan, nan)
    value = above / below
    slope = (d_above - value * d_below) / below
    return Estimate(float(value), sqrt(float((draw * slope**2).sum())))


class LossDispersion(msgspec.Struct, frozen=True):
    """How realised losses scatter around a loss model: variance of a row's loss over the square of its expectation."""

    relative_variance: float
    rows: int

    @classmethod
    def of(cls, loss: Floats, expected: Floats) -> Self:
        """From held-out rows: realised and expected losses, each of shape (n,)."""
        scale = float((expected**2).sum())
        return cls(float(((loss - expected) ** 2).sum()) / scale if scale > 0 else nan, len(loss))


def estimate_loss(expected: Floats, dispersion: LossDispersion | None = None) -> Estimate:
    """Expected mean absolute error of a regression on rows without labels, from a loss model's answers, shape (n,).

    Without a dispersion the error is taken to be exponential around its expectation (variance = expectation²).
    """
    relative = 1.0 if dispersion is None else dispersion.relative_variance
    return _mean(expected, relative * expected**2)


def with_cluster_error(estimates: Mapping[str, Estimate], overdispersion: float) -> dict[str, Estimate]:
    """The same estimates where rows hang together: errors grow by the root of the overdispersion seen in the reference."""
    factor = sqrt(max(1.0, overdispersion))
    return {name: Estimate(one.value, one.standard_error * factor) for name, one in estimates.items()}


def compared_metric(spec: ModelSpec) -> str:
    """The metric by which an estimate is held against the reference.

    A classifier's expected loss moves with the base rate though nothing has decayed; what it can tell apart does not.
    """
    return "mae" if spec.task == "regression" else "roc_auc"


def estimate_alarm(spec: ModelSpec, known: Mapping[str, float], estimated: Mapping[str, Estimate]) -> str | None:
    """Why an estimate is worse than the reference; None where it is not, or where it cannot be compared.

    Worse is what differs by the declared floor (of an error itself, of an area above chance) and by three standard errors.

    Parameters
    ----------
    known
        Metrics on the held-out rows, by name.
    estimated
        Estimates for a window, by name.
    """
    metric = compared_metric(spec)
    if metric not in estimated or metric not in known:
        return None
    estimate, before = estimated[metric], known[metric]
    worse = estimate.value - before if spec.task == "regression" else before - estimate.value
    allowed = spec.monitoring.floor * (before if spec.task == "regression" else abs(before - _NO_SKILL))
    if not worse > max(allowed, _STANDARD_ERRORS * estimate.standard_error):
        return None
    return (
        f"without labels, {metric} is estimated at {estimate.value:.4g} ± {estimate.standard_error:.2g}; it was {before:.4g} on "
        "held-out rows"
    )
