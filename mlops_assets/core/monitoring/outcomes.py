"""What each possible outcome would cost: per-row losses of a classifier for every class that the truth might turn out to be."""

import numpy as np

from mlops_assets.core.metrics import Floats, decide

_SMALLEST = 1e-15


def if_outcome(metric: str, output: Floats, threshold: float = 0.5) -> Floats:
    """Row values of a metric, as `metrics.METRICS` has them, if the truth were class k: shape (n, K), column k.

    Parameters
    ----------
    metric
        log_loss, brier or accuracy.
    output
        Stated probabilities, shape (n, K).

    Raises
    ------
    ValueError
        For another metric.
    """
    if metric == "log_loss":
        losses: Floats = -np.log(np.clip(output, _SMALLEST, 1.0))
        return losses
    if metric == "brier":
        if output.shape[1] == 2:
            p, q = output[:, 1], output[:, 0]
            return np.column_stack([(p**2 + (1 - q) ** 2) / 2, (q**2 + (1 - p) ** 2) / 2])
        each: Floats = (output**2).sum(axis=1, keepdims=True) + 1 - 2 * output
        return each
    if metric == "accuracy":
        right: Floats = np.equal.outer(decide(output, threshold), np.arange(output.shape[1])).astype(np.float64)
        return right
    raise ValueError(f"{metric!r} has no loss per outcome; choose log_loss, brier or accuracy")


def mean_and_variance(values: Floats, chances: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of each row's value, shape (n,), over the chances of its outcomes; both inputs of shape (n, K)."""
    mean = np.einsum("nk,nk->n", chances, values)
    variance = np.maximum(np.einsum("nk,nk,nk->n", chances, values, values) - mean**2, 0.0)
    return mean, variance
