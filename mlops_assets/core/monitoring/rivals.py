"""Would another version have done better on the very rows that the champion answered? Paired losses, one test.

Which version is asked, and what follows from it, is not decided here; candidates before their release are compared in
`core/evaluation.py`.
"""

from math import nan, sqrt

import msgspec
from scipy import stats

from mlops_assets.core.evaluation import Interval, PairedComparison
from mlops_assets.core.metrics import METRICS, Floats
from mlops_assets.core.spec import ModelSpec

CHANCE = 0.001  # of calling an equally good rival better
_INTERVAL = 0.95


class Rivalry(msgspec.Struct, frozen=True):
    """A rival in the place of `comparison.champion`, who answers now in that of the candidate, and whether the rival is better."""

    comparison: PairedComparison
    is_better: bool


def compare_paired(
    spec: ModelSpec, truth: Floats, rival: Floats, current: Floats, *, overdispersion: float = 1.0
) -> Rivalry:
    """Compare a rival with who answers now, on the same rows, by the headline loss.

    The mean difference of the row losses is taken to be normal (Diebold & Mariano 1995, Comparing Predictive Accuracy, whose test
    of equal accuracy this is, one-sided). Rows that share a day hang together, in differences as in losses: the variance is
    widened by the design effect that the reference shows (Kish 1965, Survey Sampling).

    Parameters
    ----------
    spec
        Names the loss, the floor below which a difference does not matter, and the decision threshold.
    truth
        Class codes or values, shape (n,).
    rival, current
        What both versions answer, each of shape (n, K) or (n, 1).
    overdispersion
        Variance of a block's mean loss over that of independent rows; below 1 it counts as 1.

    Returns
    -------
    Rivalry
        The losses, their mean difference with its 95 % interval (positive where the rival is better, NaN ends for fewer than two
        rows), and the verdict: better by the floor, relative to the rival's loss, and beyond a chance of .001.

    Raises
    ------
    ValueError
        If there is no row, or if the answers are not of one shape, or not as many as the truths.
    """
    if not len(truth) or rival.shape != current.shape or len(rival) != len(truth):
        raise ValueError(
            f"{len(truth)} truths, answers of shape {rival.shape} and {current.shape}: rivals are compared on the same rows, one "
            "at least"
        )
    metric, threshold = METRICS[spec.headline_loss], spec.evaluation.decision_threshold
    assert metric.rows is not None  # the declaration takes no other
    before, now = metric.rows(truth, rival, threshold), metric.rows(truth, current, threshold)
    worse, rows = now - before, len(now)
    error = float(worse.std(ddof=1)) * sqrt(max(1.0, overdispersion) / rows) if rows > 1 else nan
    rise, width = float(worse.mean()), float(stats.norm.isf((1 - _INTERVAL) / 2)) * error
    comparison = PairedComparison(
        spec.headline_loss, rows, float(before.mean()), float(now.mean()), Interval(rise, rise - width, rise + width)
    )
    beyond_chance = rise > float(stats.norm.isf(CHANCE)) * error
    return Rivalry(comparison, beyond_chance and rise >= spec.monitoring.floor * comparison.champion)
