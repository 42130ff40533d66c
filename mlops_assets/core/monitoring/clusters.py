"""How far may a mean loss wander by chance? Row variance, overdispersion and autocorrelation, learned from reference blocks.

What a loss is, and which tests are made of it, is told in `performance.py`.
"""

from dataclasses import dataclass
from math import inf, log1p, nan, sqrt

import numpy as np
from scipy import special, stats

from mlops_assets.core.metrics import Floats

# Evidence asked for before blocks are taken to differ by more than their rows' luck, or to follow one another.
_OVERDISPERSION_LEVEL = 0.01
_AUTOCORRELATION_LEVEL = 0.001
# With fewer blocks the test for overdispersion sees too little to be relied on.
_BLOCKS_TO_TRUST_ROWS = 20


@dataclass(frozen=True)
class Baseline:
    """One loss on the reference.

    A window's excess is its mean loss less `ratio` times its mean expectation, zero on the reference as a whole. Rows vary by
    `row_variance` times their theoretical variance; rows of one cluster share a part of it, which makes the variance of a
    reference block's mean `overdispersion` times as large as that of independent rows (the design effect of cluster
    sampling, Kish 1965); neighbouring clusters are correlated by `autocorrelation` (0 where not shown). `tail` is how much further
    out the most extreme block lies than Student's t would have it, and divides every z: such luck can strike several blocks
    in a row.
    """

    ratio: float
    row_variance: float
    overdispersion: float
    autocorrelation: float
    block_rows: float
    df: float
    tail: float
    blocks: int
    rows: float
    cluster_squares: float
    expected: float
    spread: float
    two_sided: bool

    def error(self, rows: float, cluster_squares: float, expected: float, spread: float) -> tuple[float, float]:
        """Standard error of a window's excess, the reference's own error included, and its degrees of freedom."""
        if not rows or not self.expected or self.df < 1:
            return nan, 1.0
        own = self._variance(rows, cluster_squares, spread)
        reference = self._variance(self.rows, self.cluster_squares, self.spread)
        scale = (expected / rows) / (self.expected / self.rows)
        return sqrt(own + reference * scale**2), self.df

    def standardise(
        self, rows: float, cluster_squares: float, total: float, expected: float, spread: float
    ) -> tuple[float, float]:
        """A window's excess in standard errors, and the degrees of freedom of Student's t that it goes with."""
        error, df = self.error(rows, cluster_squares, expected, spread)
        excess = (total - self.ratio * expected) / rows
        if not np.isfinite(error):
            return 0.0, df
        if error == 0:
            return float(np.sign(excess)) * inf if abs(excess) > 1e-12 * max(1.0, abs(total / rows)) else 0.0, df
        # a loss rises further than it falls
        size = excess if self.two_sided else _log_excess(excess, self.ratio * expected / rows)
        return size / error / self.tail, df

    def _variance(self, rows: float, cluster_squares: float, spread: float) -> float:
        if not rows:
            return nan
        design = 1 + (self.overdispersion - 1) * (cluster_squares / rows) / self.block_rows
        return (
            self.row_variance * spread / rows**2 * design * _inflation(self.autocorrelation, rows**2 / cluster_squares)
        )

    @property
    def confidence(self) -> str:
        """How much the reference can tell, in words."""
        if self.blocks < 2:
            return "1 reference block: no test can be made"
        enough = self.blocks >= _BLOCKS_TO_TRUST_ROWS
        return (
            f"{self.blocks} reference blocks, whose means vary {self.overdispersion:.3g} times as much as independent rows'; "
            f"{'enough blocks' if enough else 'few blocks, so that only large changes are found'}"
        )


def fit_baseline(
    rows: Floats,
    total: Floats,
    squares: Floats,
    expected: Floats,
    expected_squares: Floats,
    cross: Floats,
    spread: Floats,
    *,
    two_sided: bool,
) -> Baseline:
    """Learn from consecutive blocks; each argument has shape (B,), sums as in `performance.LossSums`."""
    used = rows > 0
    rows, total, expected, spread = rows[used], total[used], expected[used], spread[used]
    n, blocks = rows.sum(), len(rows)
    ratio = total.sum() / expected.sum() if expected.sum() else 0.0
    second = squares.sum() - 2 * ratio * cross.sum() + ratio**2 * expected_squares.sum()
    mean = (total.sum() - ratio * expected.sum()) / n
    row_variance = max(second / n - mean**2, 0.0) / (spread.sum() / n) if spread.sum() > 0 else 0.0
    theory = row_variance * spread
    standard = np.divide(total - ratio * expected, np.sqrt(theory), out=np.zeros(blocks), where=theory > 0)
    freedom = max(blocks - 1, 0)
    empirical = float((standard**2).sum() / freedom) if freedom else 1.0
    shown = freedom > 0 and empirical * freedom > stats.chi2.isf(_OVERDISPERSION_LEVEL, freedom)
    autocorrelation = _shown_autocorrelation(standard)
    df = freedom * (1 - autocorrelation**2) / (1 + autocorrelation**2)
    overdispersion = max(1.0, empirical)
    return Baseline(
        ratio=float(ratio),
        row_variance=float(row_variance),
        overdispersion=overdispersion,
        autocorrelation=autocorrelation,
        block_rows=float((rows**2).sum() / n),
        df=df if shown or blocks < _BLOCKS_TO_TRUST_ROWS else inf,
        tail=_tail(standard / sqrt(overdispersion), two_sided),
        blocks=blocks,
        rows=float(n),
        cluster_squares=float((rows**2).sum()),
        expected=float(expected.sum()),
        spread=float(spread.sum()),
        two_sided=two_sided,
    )


def _log_excess(excess: float, expected: float) -> float:
    """Excess of a loss over a positive expectation, on a logarithmic scale that agrees with it where it is small."""
    if expected <= 0:
        return excess
    return expected * log1p(excess / expected) if excess > -expected else -inf


def upper_tail(z: float, df: float) -> float:
    """Chance that Student's t with `df` degrees of freedom, the normal for infinitely many, lies above z."""
    return float(special.ndtr(-z) if df == inf else special.stdtr(df, -z))


def _shown_autocorrelation(standard: Floats) -> float:
    """Lower confidence limit of the correlation of neighbouring blocks (Fisher 1921), at least 0.

    The limit and not the estimate: a few blocks show little, and are paid for by their degrees of freedom.
    """
    blocks = len(standard)
    power = float(standard @ standard)
    if blocks < 8 or power == 0:
        return 0.0
    estimate = float(standard[1:] @ standard[:-1]) / power
    limit = np.tanh(
        np.arctanh(min(max(estimate, -0.99), 0.99)) - stats.norm.isf(_AUTOCORRELATION_LEVEL) / sqrt(blocks - 3)
    )
    return max(0.0, float(limit))


def _inflation(correlation: float, clusters: float) -> float:
    """Variance of a mean of correlated clusters over that of independent ones, first-order autoregression (Bartlett 1935)."""
    if correlation == 0 or clusters <= 1:
        return 1.0
    lasting = correlation / (1 - correlation)
    return 1 + 2 * lasting * (1 - (1 - float(correlation**clusters)) / (clusters * (1 - correlation)))


def _tail(standard: Floats, two_sided: bool) -> float:
    """Largest block over the size that the largest of so many is to be expected to have, at least 1."""
    blocks = len(standard)
    if blocks < 2:
        return 1.0
    above = 1 - 0.5 ** (1 / blocks)  # the median of the largest of so many
    expected = stats.t.isf(above / 2 if two_sided else above, blocks - 1)
    largest = np.abs(standard).max() if two_sided else standard.max()
    return max(1.0, float(largest / expected))
