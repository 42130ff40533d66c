"""How far a feature's statistics may stray when nothing has changed, learned from consecutive reference blocks.

Real rows are no independent draws: those of one window share their weather and their season, so a window is worth fewer rows
than it has. Where the blocks show that, their own scatter is the yardstick; where they do not, the sampling distribution is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mlops_assets.core.monitoring.measures import Counts, Floats, Measured, Measures
from mlops_assets.core.monitoring.pooling import fill, judged, pooled, rolled, scales_for, unfilled_are_one
from mlops_assets.core.monitoring.season import Seasons
from mlops_assets.core.monitoring.tails import (
    chi2_above,
    normal_above,
    student_above,
    student_quantile_above,
)

FEWEST_BLOCKS = 8  # with fewer the scatter between blocks is not known
SIGNIFICANT = 0.01  # of overdispersion, over all statistics and scales of a feature
LEAST_LEFT = (
    0.05  # of the variance between blocks, however well the calendar explains them: the next season is another one
)
BLOCKS_PER_FREEDOM = 16.0  # of a tail that must hold for holidays and storms: chosen on flights and the census
SHAPE_FREEDOM = 8.0  # at most: the shape statistic has a longer tail than the blocks can show
LOCATION, SPREAD, SHAPE, CELLS = range(4)
FAMILIES = ("location", "spread", "shape", "category mix")


@dataclass(frozen=True)
class Scale:
    """What is known of means of `windows` consecutive residuals of S statistics.

    Attributes
    ----------
    between
        (S,): variance between blocks beyond that of sampling.
    freedom
        (S,): degrees of freedom of that estimate.
    inflation
        (S,): Factor by which the reference's largest |z| is above what t of those degrees of freedom lets expect.
    shape
        Mean and standard deviation of the shape statistic over the reference blocks.
    shape_freedom, shape_inflation
        The same of the shape statistic.
    """

    windows: int
    between: Floats
    freedom: Floats
    inflation: Floats
    shape: tuple[float, float]
    shape_freedom: float
    shape_inflation: float


class Dispersion:
    """The null distribution of one feature's statistics.

    Attributes
    ----------
    overdispersed
        Whether consecutive blocks of the reference differ by more than sampling (χ² at .01 over all statistics and scales).
    phi
        At least 1: variance between blocks over sampling variance, the largest of location, spread and the mean over shares
        (McCullagh and Nelder 1989, 4.5).
    """

    def __init__(self, measures: Measures, counts: Counts, phase: Floats) -> None:
        self._measures = measures
        measured = measures.of(counts)
        self.blocks = int((measured.weight > 0).sum())
        self.scales = scales_for(self.blocks)
        self._cell_weight = np.maximum(1 - measures.shares, 0.0)
        self._freedom = max(len(measures.shares) - 1, 1)
        if self.blocks:
            self.overdispersed, self.phi = self._overdispersion(measured)
        else:
            self.overdispersed, self.phi = False, 1.0
        self._guard = self.phi if self.blocks < FEWEST_BLOCKS else 1.0
        self.overdispersed = self.overdispersed and self.blocks >= FEWEST_BLOCKS
        self._seasons = Seasons.fit(measured.values, measured.weight, phase) if self.overdispersed else None
        self._tail = tail_freedom(self.blocks)
        if self._seasons is not None:
            used = measured.weight > 0
            raw = measured.values - np.average(measured.values[used], axis=0, weights=measured.weight[used])
            self._parameters = self._seasons.parameters
            self._single, self._sudden, *more = (
                self._learn(self._seasons.residuals, raw, measured.weight, k, most)
                for k, most in ((1, np.inf), *((k, self._tail) for k in self.scales))
            )
            self._more = tuple(
                np.array([getattr(scale, name) for scale in more])[:, None]
                for name in ("between", "freedom", "inflation")
            )

    def test(self, counts: Counts, phase: Floats, newest: bool = False) -> Floats:
        """p-values of consecutive windows at every scale.

        Parameters
        ----------
        counts
            (W, cells of the feature), in time order.
        phase
            (W, 6): mean cos and sin of hour, weekday, day of the year.
        newest
            Whether the newest window alone is judged.

        Returns
        -------
        Floats
            (K, J, 4), in the order of `FAMILIES`: for each of the K scales that W windows fill, and each of the J judged windows
            (1 or W), those of the last windows merged; 1 where a family does not apply or too few windows came before.
        """
        scales = self.scales[: fill(len(counts))]
        if self._seasons is None:
            return self._independent(pooled(counts, scales, newest), scales, newest)
        measured = self._measures.of(counts)
        expected, factor = self._seasons.expected(phase)
        residual = np.where(measured.weight[:, None] > 0, measured.values - expected, 0.0)
        return self._dependent(residual, factor, measured.weight, scales, newest)

    def _overdispersion(self, measured: Measured) -> tuple[bool, float]:
        """Pearson's χ² of the blocks against the whole reference, and of the strangest block, for each statistic and scale."""
        ranks, phi, smallest, parts = self._measures.ranks, 1.0, 1.0, 0
        for k in self.scales:
            merged, weight = rolled(measured.values - self._measures.expected, measured.weight, k)
            merged, weight = merged[k - 1 :: k], weight[k - 1 :: k]
            merged, weight = merged[weight > 0], weight[weight > 0]
            if len(weight) < 2:
                continue
            # the blocks are part of the reference, so that their means have lost one degree of freedom
            centre = (merged * weight[:, None]).sum(axis=0) / weight.sum()
            square = (merged - centre) ** 2 * weight[:, None] / self._measures.unit
            each = [*square[:, :ranks].T, square[:, ranks:] @ self._cell_weight]
            for block, degrees in zip(each, [1] * ranks + [self._freedom], strict=True):
                freedom = (len(weight) - 1) * degrees
                parts += 2
                # all blocks a little, or a few of them much
                smallest = min(smallest, float(chi2_above(block.sum(), freedom)))
                smallest = min(smallest, float(chi2_above(block.max(), degrees)) * len(weight))
                phi = max(phi, float(block.sum()) / freedom) if k == 1 else phi
        return smallest < SIGNIFICANT / max(parts, 1), phi

    def _learn(self, residuals: Floats, raw: Floats, weight: Floats, k: int, most: float) -> Scale:
        residual, rows = rolled(residuals, weight, k)
        residual, rows = residual[k - 1 :], rows[k - 1 :]
        residual, rows = residual[rows > 0], rows[rows > 0]
        pooled_raw = np.maximum(raw.var(axis=0) / k, rolled(raw, weight, k)[0][k - 1 :].var(axis=0))
        independent = max(self.blocks / k, 2.0)
        sampling = self._measures.unit * np.mean(1 / rows)
        known = np.maximum((self.blocks - self._parameters) / k, 1.0)
        between = np.maximum((residual**2).mean(axis=0) - sampling, LEAST_LEFT * np.maximum(pooled_raw - sampling, 0.0))
        z = np.abs(residual) / np.sqrt(between + self._measures.unit / rows[:, None])
        freedom = np.minimum(known, most)
        inflation = _inflation(z.max(axis=0), independent, freedom)
        shape = self._shape(z / _inflation(z.max(axis=0), independent, known))
        mean, deviation = float(shape.mean()), max(float(shape.std(ddof=1)), 1e-3)
        degrees = min(max(independent - 1, 1.0), SHAPE_FREEDOM, most)
        largest = np.array([(shape.max() - mean) / deviation])
        shape_inflation = float(_inflation(largest, independent, np.array([degrees]))[0])
        return Scale(k, between, freedom, inflation, (mean, deviation), degrees, shape_inflation)

    def _shape(self, z: Floats) -> Floats:
        """Cube root of the mean squared cell residual: nearly normal (Wilson and Hilferty 1931), shape (W,)."""
        cells = z[:, self._measures.ranks :] ** 2 @ self._cell_weight
        return np.asarray(np.cbrt(cells / max(float(self._cell_weight.sum()), 1e-9)))

    def _dependent(
        self, residual: Floats, factor: Floats, weight: Floats, scales: tuple[int, ...], newest: bool
    ) -> Floats:
        rows = pooled(weight, scales, newest)
        shape = np.ones_like(rows)  # a holiday week moves every cell a little: pooled, that is nobody's concern
        p = np.ones((*rows.shape, residual.shape[1]))
        p[0], shape[0] = self._alone(residual, factor, weight, newest)
        if len(scales) > 1:
            between, freedom, inflation = (column[: len(scales) - 1] for column in self._more)
            safe = np.maximum(rows[1:], 1.0)[..., None]
            mean = pooled(residual * weight[:, None], scales[1:], newest) / safe
            # a window without rows has no place in the calendar
            wider = np.maximum(pooled(factor * weight[:, None], scales[1:], newest) / safe, 1.0)
            own = self._measures.unit * (1 / safe + 1 / self._measures.rows)
            z = np.abs(mean) / (np.sqrt((between + own) * wider) * inflation)
            p[1:] = 2 * student_above(z, freedom)
            p[1:][judged(residual, newest) * mean <= 0] = 1.0  # what is over does not go on alarming
        return self._families(p, shape, rows, scales, newest)

    def _alone(self, residual: Floats, factor: Floats, weight: Floats, newest: bool) -> tuple[Floats, Floats]:
        """p-values of single windows, (J, S), and of their shape, (J,).

        Either a window lies far beyond all blocks, or it and the one before it lie beyond them to the same side: a holiday or a
        storm, which so few blocks need not have had, is over in a window, and a change is not.
        """
        last = slice(-2, None) if newest else slice(None)
        residual, factor, weight = residual[last], factor[last], weight[last]
        scale, sudden = self._single, self._sudden
        own = self._measures.unit * (1 / np.maximum(weight, 1.0)[:, None] + 1 / self._measures.rows)
        away = residual / np.sqrt((scale.between + own) * factor)
        z = np.abs(away)
        p = 2 * student_above(z / scale.inflation, scale.freedom)
        p = np.minimum(2 * student_above(z / sudden.inflation, sudden.freedom), _lasting(p, away))
        mean, deviation = scale.shape
        shape = (self._shape(z / scale.inflation) - mean)[:, None] / deviation
        again = student_above(shape / scale.shape_inflation, scale.shape_freedom)
        again = np.minimum(
            student_above(shape / sudden.shape_inflation, sudden.shape_freedom), _lasting(again, np.ones_like(again))
        )
        return judged(p, newest), judged(again[:, 0], newest)

    def _independent(self, merged: Counts, scales: tuple[int, ...], newest: bool) -> Floats:
        flat = merged.reshape(-1, merged.shape[-1])
        measured = self._measures.of(flat)
        rows = measured.weight
        variance = self._guard * self._measures.unit * (1 / np.maximum(rows, 1)[:, None] + 1 / self._measures.rows)
        away = measured.values - self._measures.expected
        z = np.abs(away) / np.sqrt(variance)
        p = 2 * normal_above(z)
        ranks = self._measures.ranks
        close = z[:, ranks:] > 3.0
        if self._guard <= 1 and close.any():
            p[:, ranks:][close] = self._exact(self._measures.grouped(flat), rows, close)
        shape = chi2_above(z[:, ranks:] ** 2 @ self._cell_weight, self._freedom)
        p, away = p.reshape(*merged.shape[:2], -1), away.reshape(*merged.shape[:2], -1)
        p[1:][away[0] * away[1:] <= 0] = 1.0
        return self._families(p, shape.reshape(p.shape[:2]), rows.reshape(p.shape[:2]), scales, newest)

    def _exact(self, grouped: Floats, rows: Floats, close: NDArray[np.bool_]) -> Floats:
        """Two-sided tails of Fisher's exact test of the cells in question, since the normal ones are too light far out.

        Given how many rows of window and reference together are in the cell, those of the window are hypergeometric (Fisher
        1935), so that the reference's own error is in it, also where the window is as large.
        """
        window, cell = np.nonzero(close)
        reference = self._measures.rows
        count, total = grouped[window, cell], rows[window]
        both = count + np.rint(self._measures.shares[cell] * reference)
        above = stats.hypergeom.sf(count - 1, reference + total, both, total)
        tail = np.minimum(above, stats.hypergeom.cdf(count, reference + total, both, total))
        p: Floats = np.minimum(2 * tail, 1.0)
        return p

    def _families(self, p: Floats, shape: Floats, rows: Floats, scales: tuple[int, ...], newest: bool) -> Floats:
        ranks = self._measures.ranks
        tested = np.ones((*rows.shape, 4))
        if ranks:
            tested[..., LOCATION : SPREAD + 1] = p[..., :ranks]
        cells = p.shape[-1] - ranks
        if cells > 1:
            tested[..., SHAPE] = shape
            tested[..., CELLS] = p[..., ranks:].min(axis=-1) * (cells if cells > 2 else 1)
        tested[rows <= 0] = 1.0
        return np.minimum(unfilled_are_one(tested, scales, newest), 1.0)


def tail_freedom(blocks: int) -> float:
    """Degrees of freedom of the t tail that a change in one window is held against: so few blocks tell little of their tail."""
    return max(blocks / BLOCKS_PER_FREEDOM, 2.0)


def _lasting(p: Floats, away: Floats) -> Floats:
    """The larger p of each window and the one before it, 1 where they lie to different sides; both of shape (W, S)."""
    before = np.concatenate([np.ones_like(p[:1]), np.where(away[1:] * away[:-1] > 0, p[:-1], 1.0)])
    larger: Floats = np.maximum(p, before)
    return larger


def _inflation(largest: Floats, draws: float, freedom: Floats) -> Floats:
    """How far the largest |z| of so many draws is above the median largest one of t."""
    usual = student_quantile_above((1 - 0.5 ** (1 / draws)) / 2, freedom)
    return np.asarray(np.maximum(largest / usual, 1.0))
