"""The metrics a gate may name: what each measures, for which task, and which way is better.

A metric that is a mean over rows also gives its row values, so that two models can be compared in pairs on the same rows.
scikit-learn is imported when something is measured: declarations, which name metrics, are read where nothing is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Task = Literal["binary", "multiclass", "regression"]
Floats = NDArray[np.float64]

_EPS = 1e-15


@dataclass(frozen=True)
class Metric:
    """One measure of an answer's quality.

    `score` takes the truth, shape (n,) (class codes 0..K-1, or values), the output, shape (n, K) (probabilities) or
    (n, 1) (values), and the decision threshold of a binary model; `rows` gives the (n,) values whose mean the score is.
    """

    name: str
    tasks: tuple[Task, ...]
    higher_is_better: bool
    score: Callable[[Floats, Floats, float], float]
    rows: Callable[[Floats, Floats, float], Floats] | None = None

    @property
    def is_mean(self) -> bool:
        return self.rows is not None

    def better(self, first: float, second: float) -> bool:
        return first > second if self.higher_is_better else first < second


def metrics_of(task: Task) -> tuple[str, ...]:
    """Names of the metrics that a model of this task may be judged by."""
    return tuple(name for name, metric in METRICS.items() if task in metric.tasks)


def decide(output: Floats, threshold: float) -> NDArray[np.int64]:
    """Class codes answered for probabilities of shape (n, K): the threshold for two classes, else the most probable."""
    if output.shape[1] == 2:
        return np.asarray(output[:, 1] >= threshold, dtype=np.int64)
    return np.asarray(output.argmax(axis=1), dtype=np.int64)


def one_hot(truth: Floats, classes: int) -> Floats:
    """Class codes (n,) as an (n, classes) indicator matrix."""
    indicator: Floats = np.eye(classes)[truth.astype(np.int64)]
    return indicator


def _brier_rows(truth: Floats, output: Floats, threshold: float) -> Floats:
    """Brier (1950), halved for two classes so that it is the usual (p - y)^2."""
    squared: Floats = ((output - one_hot(truth, output.shape[1])) ** 2).sum(axis=1)
    return squared / 2 if output.shape[1] == 2 else squared


def _log_loss_rows(truth: Floats, output: Floats, threshold: float) -> Floats:
    chosen = output[np.arange(len(truth)), truth.astype(np.int64)]
    losses: Floats = -np.log(np.clip(chosen, _EPS, 1.0))
    return losses


def _accuracy_rows(truth: Floats, output: Floats, threshold: float) -> Floats:
    right: Floats = np.equal(decide(output, threshold), truth).astype(np.float64)
    return right


def _absolute_error_rows(truth: Floats, output: Floats, threshold: float) -> Floats:
    return np.abs(output[:, 0] - truth)


def _squared_error_rows(truth: Floats, output: Floats, threshold: float) -> Floats:
    return (output[:, 0] - truth) ** 2


def _roc_auc(truth: Floats, output: Floats, threshold: float) -> float:
    """Area under the ROC curve; one against the rest and macro-averaged beyond two classes; NaN where a class is absent."""
    from sklearn import metrics as sk

    if len(np.unique(truth)) < output.shape[1]:
        return float("nan")
    if output.shape[1] == 2:
        return float(sk.roc_auc_score(truth, output[:, 1]))
    areas = [sk.roc_auc_score(truth == code, output[:, code]) for code in range(output.shape[1])]
    return float(np.mean(areas))


def _average_precision(truth: Floats, output: Floats, threshold: float) -> float:
    from sklearn import metrics as sk

    return float(sk.average_precision_score(truth, output[:, 1])) if truth.any() else float("nan")


def quantile_bins(values: Floats, bins: int) -> list[NDArray[np.int64]]:
    """Positions of the values in at most `bins` groups of about equal size, ascending; equal values stay together."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    cuts = np.searchsorted(ordered, ordered[np.arange(1, bins) * len(values) // bins])
    return [part for part in np.split(order, np.unique(cuts)) if len(part)]


def expected_calibration_error(truth: Floats, output: Floats, bins: int = 10) -> float:
    """Mean gap between stated and realised frequency over quantile bins (Naeini et al. 2015), of the positive class."""
    parts = quantile_bins(output[:, 1], bins)
    gaps = [abs(float(output[part, 1].mean() - truth[part].mean())) * len(part) for part in parts]
    return sum(gaps) / len(truth)


def _calibration(truth: Floats, output: Floats, threshold: float) -> float:
    return expected_calibration_error(truth, output)


def _decided(name: str, **options: object) -> Callable[[Floats, Floats, float], float]:
    """What scikit-learn calls so, of the classes answered."""

    def score(truth: Floats, output: Floats, threshold: float) -> float:
        from sklearn import metrics as sk

        return float(getattr(sk, name)(truth.astype(np.int64), decide(output, threshold), **options))

    return score


def _r2(truth: Floats, output: Floats, threshold: float) -> float:
    from sklearn import metrics as sk

    return float(sk.r2_score(truth, output[:, 0]))


def _rmse(truth: Floats, output: Floats, threshold: float) -> float:
    return float(np.sqrt(_squared_error_rows(truth, output, threshold).mean()))


def _median_absolute_error(truth: Floats, output: Floats, threshold: float) -> float:
    return float(np.median(_absolute_error_rows(truth, output, threshold)))


def _mean_metric(
    name: str, tasks: tuple[Task, ...], higher_is_better: bool, rows: Callable[[Floats, Floats, float], Floats]
) -> Metric:
    return Metric(name, tasks, higher_is_better, lambda *of: float(rows(*of).mean()), rows)


_CLASSIFICATION: tuple[Task, ...] = ("binary", "multiclass")
_ALL = (
    Metric("roc_auc", _CLASSIFICATION, True, _roc_auc),
    _mean_metric("brier", _CLASSIFICATION, False, _brier_rows),
    _mean_metric("log_loss", _CLASSIFICATION, False, _log_loss_rows),
    _mean_metric("accuracy", _CLASSIFICATION, True, _accuracy_rows),
    Metric("average_precision", ("binary",), True, _average_precision),
    Metric("calibration_error", ("binary",), False, _calibration),
    Metric("precision", ("binary",), True, _decided("precision_score", zero_division=0.0)),
    Metric("recall", ("binary",), True, _decided("recall_score", zero_division=0.0)),
    Metric("f1", ("binary",), True, _decided("f1_score", zero_division=0.0)),
    Metric("balanced_accuracy", ("multiclass",), True, _decided("balanced_accuracy_score")),
    Metric("f1_macro", ("multiclass",), True, _decided("f1_score", average="macro", zero_division=0.0)),
    _mean_metric("mae", ("regression",), False, _absolute_error_rows),
    _mean_metric("mse", ("regression",), False, _squared_error_rows),
    Metric("rmse", ("regression",), False, _rmse),
    Metric("median_absolute_error", ("regression",), False, _median_absolute_error),
    Metric("r2", ("regression",), True, _r2),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
