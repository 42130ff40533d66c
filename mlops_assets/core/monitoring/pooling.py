"""Consecutive windows merged with those before them, at several scales. What is tested on them is told elsewhere."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.monitoring.counting import Floats, Ints

SCALES = (1, 2, 4, 8)
MOST_WINDOWS = SCALES[-1]  # so many are looked back on

_Number = TypeVar("_Number", np.float64, np.int64)


def scales_for(blocks: int) -> tuple[int, ...]:
    """Pooling scales that have at least ten reference blocks each; the newest window alone always counts."""
    return tuple(k for k in SCALES if k == 1 or blocks >= 10 * k)


def fill(windows: int) -> int:
    """How many of the scales so many windows fill, one at least."""
    return max(sum(k <= windows for k in SCALES), 1)


def judged(values: NDArray[_Number], newest: bool) -> NDArray[_Number]:
    """The rows of the windows that are judged: the last, or all; `values` has shape (W, ...)."""
    return values[-1:] if newest else values


def pooled(values: NDArray[_Number], scales: tuple[int, ...], newest: bool) -> NDArray[_Number]:
    """Sums of each judged window and the k - 1 before it (fewer for the first ones).

    Parameters
    ----------
    values
        (W, ...): of consecutive windows.
    newest
        Whether the last window alone is judged.

    Returns
    -------
    NDArray
        (K, J, ...): J = 1 for the newest, or W.
    """
    if newest:
        sums = np.empty((len(scales), 1, *values.shape[1:]), dtype=values.dtype)
        for place, k in enumerate(scales):
            np.add.reduce(values[-k:], axis=0, out=sums[place, 0, ...])
        return sums
    total = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values]), axis=0)
    end = np.arange(1, len(values) + 1)
    # without merging, no rounding either
    return np.stack([values if k == 1 else total[end] - total[np.maximum(end - k, 0)] for k in scales])


def unfilled_are_one(p: Floats, scales: tuple[int, ...], newest: bool) -> Floats:
    """Set the p-values, (K, J, ...), of windows that have fewer than k - 1 before them to 1, in place."""
    if not newest:
        for place, k in enumerate(scales):
            p[place, : k - 1] = 1.0
    return p


def rolled(values: Floats, weight: Floats, k: int) -> tuple[Floats, Floats]:
    """Weighted means of each row and the k - 1 before it, and their weights; the first k - 1 are means of what there is.

    `values` has shape (W, S), `weight` (W,).
    """
    if k == 1:
        return values, weight
    rows = pooled(weight, (k,), False)[0]
    return pooled(values * weight[:, None], (k,), False)[0] / np.maximum(rows, 1.0)[:, None], rows


def rolled_counts(counts: Ints, k: int) -> Ints:
    """Counts of each window and the k - 1 before it merged (fewer for the first ones)."""
    merged: Ints = pooled(counts, (k,), False)[0]
    return merged
