"""What is measured on the counts of a window, feature by feature: mean ranks and shares, with their sampling variance.

Whether a measured value is unusual is not decided here (`dispersion.py`, `rare.py`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.monitoring.profile import FeatureBins

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

SMALLEST_EXPECTED = 5.0  # Cochran (1954): cells that expect fewer rows are pooled


@dataclass(frozen=True)
class Measured:
    """One feature's statistics of W windows. Windows in which the feature has no value at all have weight zero.

    Attributes
    ----------
    values
        (W, S): the statistics, in the order of `Measures.unit`.
    weight
        (W,): rows with a value.
    """

    values: Floats
    weight: Floats


class Measures:
    """The statistics of one feature, as the reference defines them.

    For a number: the mean mid-rank and the mean distance of the mid-rank from the middle (the statistics of Wilcoxon 1945
    and of Ansari and Bradley 1960, on grouped data, each as a mean over rows), then the shares of its bins. For a category: the
    shares of its levels. Shares are taken as arcsin √((v + ⅜) / (m + ¾)) (Anscombe 1948), whose variance 1 / (4m + 2) does
    not depend on the share.

    Attributes
    ----------
    unit
        (S,): sampling variance of each statistic for one row; that of m rows is `unit / m`.
    expected
        (S,): the statistics of the whole reference.
    ranks
        How many of the first statistics are mean ranks: 2 for a number, 0 for a category.
    shares
        (S - ranks,): the share of each cell in the reference.
    rows
        Reference rows with a value.
    """

    def __init__(self, bins: FeatureBins, whole: Counts, block_rows: float) -> None:
        self.kind = bins.kind
        cells = whole[:-1].astype(np.float64)  # the last one counts the missing
        self.rows = max(float(cells.sum()), 1.0)
        inner = cells[1:-1] if bins.kind == "number" else cells[:-1]
        share = inner / max(inner.sum(), 1.0)
        group = _pooling(share, block_rows * self.rows / max(float(whole.sum()), 1.0))
        groups = int(group.max(initial=0)) + 1
        self.shares: Floats = np.bincount(group, weights=share, minlength=groups).astype(np.float64)
        # what lies out of range belongs to the outermost bins; unseen levels are tested on their own
        number = bins.kind == "number"
        of_cell = np.concatenate([group[:1], group, group[-1:]]) if number else np.append(group, -1)
        self._sums: Floats = (of_cell[:, None] == np.arange(groups)).astype(np.float64)
        rank = np.zeros((len(cells), 0))
        if number:
            middle = np.concatenate([[0.0], np.cumsum(share) - share / 2, [1.0]])
            rank = np.stack([middle, np.abs(middle - 0.5)], axis=1)
        self._all_sums: Floats = np.concatenate([rank, self._sums], axis=1)
        mass = cells / self.rows
        mean, square = mass @ rank, mass @ rank**2
        self.ranks = len(mean)
        self.unit: Floats = np.concatenate([np.maximum(square - mean**2, 1e-12), np.full(groups, 0.25)])
        self.expected: Floats = np.concatenate([mean, np.arcsin(np.sqrt(self.shares))])

    def of(self, counts: Counts) -> Measured:
        """Measure the windows; `counts` has shape (W, cells of the feature)."""
        cells = counts[:, :-1].astype(np.float64)
        weight = cells.sum(axis=1)
        safe = np.maximum(weight, 1.0)[:, None]
        values = cells @ self._all_sums
        values[:, : self.ranks] /= safe
        grouped = values[:, self.ranks :]
        np.arcsin(np.sqrt(np.minimum((grouped + 0.375) / (safe + 0.75), 1.0)), out=grouped)
        return Measured(values, weight)

    def grouped(self, counts: Counts) -> Floats:
        """Rows in each pooled cell, shape (W, S - ranks). What lies out of range belongs to the outermost bins."""
        return np.asarray(counts[:, :-1] @ self._sums)


def _pooling(share: Floats, block_rows: float) -> NDArray[np.int64]:
    """Give every cell the number of its group: cells that expect fewer than five rows in a reference block share one."""
    small = share * block_rows < SMALLEST_EXPECTED
    if small.any() and share[small].sum() * block_rows < SMALLEST_EXPECTED and not small.all():
        # together they are still too few: the smallest of the others takes them in
        large = np.flatnonzero(~small)
        small[large[np.argmin(share[large])]] = True
    group = np.zeros(len(share), dtype=np.int64)
    group[~small] = np.arange(int((~small).sum()))
    group[small] = int((~small).sum())
    return group
