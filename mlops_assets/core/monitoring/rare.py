"""Events that ought to be rare: values that are missing, levels never seen, numbers out of range, a feature stuck at one value."""

import math

import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.monitoring.dispersion import FEWEST_BLOCKS, SIGNIFICANT, tail_freedom
from mlops_assets.core.monitoring.measures import Counts, Floats
from mlops_assets.core.monitoring.pooling import fill, judged, pooled, rolled_counts, scales_for, unfilled_are_one
from mlops_assets.core.monitoring.season import Seasons
from mlops_assets.core.monitoring.tails import (
    beta_quantile,
    binomial_at_least,
    chi2_above,
    negative_binomial_at_least,
    student_above,
    student_quantile_above,
)

MISSING_FLOOR = 0.01  # an excess of less than a point is nobody's concern
RARE_ROWS = 3
RARE_SHARE = 0.002
NEARLY_STUCK = 0.9  # of a window's values are one
_MOSTLY = 0.5


def rare_tail(count: Floats, rows: Floats, seen: float, of: float, phi: float = 1.0) -> Floats:
    """P(as many or more) of a rare event, given how often the reference had it: the gamma-Poisson predictive tail.

    With Jeffreys' prior the rate given `seen` events in `of` rows is gamma with shape seen + ½, so that the count in `rows` new
    rows is negative binomial (Gelman et al., Bayesian Data Analysis, 2.7). Bursts of mean size `phi` count as one event each.

    Parameters
    ----------
    count, rows
        (W,): events and rows of the windows.
    """
    events = np.ceil(count / phi)
    return negative_binomial_at_least(events, seen / phi + 0.5, of / (of + np.maximum(rows, 1.0)))


class MissingRate:
    """Is more missing than in the reference?

    Where the reference's blocks scatter no more than draws do, by the binomial tail or, where it is rare, the gamma-Poisson one;
    else arcsin √share (Anscombe 1948) against the blocks' own scatter, in which each of the last k windows must be high.
    """

    def __init__(self, missing: Counts, rows: Floats, phase: Floats, seen: float, of: float) -> None:
        self.seen, self.of = seen, max(of, 1.0)
        self.share = seen / self.of
        self.scales = scales_for(len(missing))
        self.largest = float((missing / np.maximum(rows, 1.0)).max(initial=0.0))
        # allowing for the reference's own error
        self._most = float(beta_quantile(0.99, seen + 0.5, max(self.of - seen, 0.0) + 0.5))
        self._blocks = len(missing)
        self.overdispersed = self._blocks >= 2 and self._dispersed(missing.astype(np.float64), rows)
        if self.overdispersed:
            self._seasons = Seasons.fit(_angle(missing, rows), rows, phase)
            self._learned = {k: self._learn(self._seasons.residuals, rows, k) for k in self.scales}

    def test(self, missing: Counts, rows: Floats, phase: Floats, newest: bool = False) -> Floats:
        """p-values of consecutive windows, (K, J), a row for each of the scales that so many windows fill.

        1 where less than a point more is missing; J as in `pooling.pooled`.
        """
        scales = self.scales[: fill(len(rows))]
        alone = judged(missing, newest) / np.maximum(judged(rows, newest), 1.0) - self.share
        if alone.max(initial=-1.0) < MISSING_FLOOR / 2:
            return np.ones((len(scales), len(alone)))
        count = pooled(missing, scales, newest).astype(np.float64)
        total = pooled(rows, scales, newest)
        excess = count / np.maximum(total, 1.0) - self.share
        worth = (excess >= MISSING_FLOOR) & (alone >= MISSING_FLOOR / 2)
        found = np.ones_like(count)
        if not worth.any():
            return found
        if self.overdispersed:
            found = self._dependent(missing, rows, phase, scales, newest)
        elif self.seen < 50:
            found = rare_tail(count, total, self.seen, self.of)
        else:
            found = binomial_at_least(count, total, self._most)
        found[~worth] = 1.0
        if self.largest < _MOSTLY / 2 and self._blocks >= FEWEST_BLOCKS:
            found[0, count[0] > _MOSTLY * total[0]] = 0.0  # a dead feed needs no test
        return unfilled_are_one(found, scales, newest)

    def _dependent(self, missing: Counts, rows: Floats, phase: Floats, scales: tuple[int, ...], newest: bool) -> Floats:
        expected, factor = self._seasons.expected(phase)
        residual = (_angle(missing, rows) - expected)[:, 0]
        sampling = judged(0.25 / np.maximum(rows, 1.0) + 0.25 / self.of, newest)
        wider = judged(factor[:, 0], newest)
        found = []
        for k in scales:
            between, freedom, inflation, mean = self._learned[k]
            lowest = judged(_lowest(residual, k), newest)
            found.append(student_above((lowest - mean) / (np.sqrt((between + sampling) * wider) * inflation), freedom))
        return np.stack(found)

    def _dispersed(self, missing: Floats, rows: Floats) -> bool:
        smallest = 1.0
        for k in self.scales:
            count = rolled_counts(missing.astype(np.int64), k)[k - 1 :: k]
            total = rolled_counts(rows.astype(np.int64), k)[k - 1 :: k]
            share = count.sum() / max(total.sum(), 1)
            variance = total * share * (1 - share)
            used = variance > 0
            if used.sum() > 1:
                pearson = float(((count - total * share)[used] ** 2 / variance[used]).sum())
                # few events make the statistic long-tailed: its own mean and variance (Haldane 1937) instead of χ²'s
                mean = float(used.sum() - 1)
                own = 2 * mean + float((1 / variance[used]).sum())
                smallest = min(smallest, float(chi2_above(pearson * 2 * mean / own, 2 * mean**2 / own)))
        return smallest < SIGNIFICANT / len(self.scales)

    def _learn(self, residuals: Floats, rows: Floats, k: int) -> tuple[float, float, float, float]:
        lowest = _lowest(residuals[:, 0], k)[k - 1 :]
        mean = float(lowest.mean())
        sampling = 0.25 * float(np.mean(1 / np.maximum(rows, 1.0)))
        # outages come in bursts: k windows in a row tell less than k windows would
        between = max(float(lowest.var()), float(residuals.var()) / k) - sampling
        between = max(between, 0.0)
        freedom = max(self._blocks / k - 1, 1.0)
        if k == 1:  # of what does not last, such as a storm, few blocks tell little
            freedom = min(freedom, tail_freedom(self._blocks))
        usual = float(student_quantile_above(1 - 0.5 ** (k / self._blocks), freedom))
        inflation = max(float((lowest - mean).max()) / np.sqrt(between + sampling) / usual, 1.0)
        return between, freedom, inflation, mean


class UnseenRate:
    """Do levels come that the reference never had, more than new ones come in it?

    The share of rows with a level that is new in fresh rows is estimated by the levels seen once (Good 1953), the bursts in which
    new levels come by the rows of a block whose level no other block has.
    """

    def __init__(self, levels: Counts, rows: Floats, singletons: float, of: float, crowded: bool) -> None:
        alone = levels * (levels == levels.sum(axis=0))
        novel = alone.sum(axis=1).astype(np.float64)
        self.of = max(of, 1.0)
        self.seen = max(float(novel.sum()), singletons) if len(novel) else singletons
        expected = np.maximum(self.seen * rows / self.of, 1e-9)
        burst = float(((novel - expected) ** 2 / expected).mean()) if len(novel) >= FEWEST_BLOCKS else 1.0
        self.phi = max(burst, 1.0)
        self.largest = float((novel / np.maximum(rows, 1.0)).max(initial=0.0))
        # where the rarest levels share a cell, their own comings and goings are not known block by block
        self.floor = max(RARE_SHARE, 10 * singletons / self.of if crowded else 0.0)

    def test(self, unseen: Counts, rows: Floats) -> Floats:
        """p-values (W,); 1 below three rows, a share of .2 %, or twice the largest block's share."""
        count = unseen.astype(np.float64)
        share = count / np.maximum(rows, 1.0)
        worth = (count >= RARE_ROWS) & (share >= self.floor) & (share > 2 * self.largest)
        if not worth.any():
            return np.ones(len(count))
        return np.where(worth, rare_tail(count, rows, self.seen, self.of, self.phi), 1.0)


class RangeRate:
    """Do numbers lie below or above everything in the reference?

    Slow series break their records again and again, and then with all rows of a window. So a record counts by how far it goes: that
    a block of the reference's kind passes the record of B blocks by x has probability exp(-x/σ) / (B + 1) where the largest values
    of blocks have an exponential tail (peaks over a threshold: Pickands 1975). σ is the mean excess of the highest tenth.
    """

    def __init__(self, low: float, high: float, of: float, minimum: Floats, maximum: Floats) -> None:
        self.low, self.high, self.of = low, high, max(of, 1.0)
        self._blocks = len(minimum)
        floor = 0.01 * max(high - low, 0.0) if self._blocks >= FEWEST_BLOCKS else max(high - low, 0.0)
        self._below = max(_tail_scale(-minimum[np.isfinite(minimum)]), floor, 1e-12)
        self._above = max(_tail_scale(maximum[np.isfinite(maximum)]), floor, 1e-12)

    def test(self, outside: Counts, rows: Floats, minimum: Floats, maximum: Floats) -> Floats:
        """p-values (W,); 1 below three rows or .2 % of them."""
        count = outside.astype(np.float64)
        enough = (count >= RARE_ROWS) & (count >= RARE_SHARE * rows)
        if not enough.any():
            return np.ones(len(count))
        over = np.maximum((maximum - self.high) / self._above, (self.low - minimum) / self._below)
        record = 2 * np.exp(-np.maximum(over, 0.0)) / (self._blocks + 1)
        # what is counted as out of range and passes no record is no number at all
        p = np.where(over > 0, record, rare_tail(count, rows, 0.0, self.of))
        return np.where(enough, np.minimum(p, 1.0), 1.0)


def mostly_outside(outside: Counts, rows: Floats) -> NDArray[np.bool_]:
    """Which windows (W,) have most rows where no reference row lies, like the one before: no scatter of days explains that."""
    most = outside > _MOSTLY * rows
    return np.asarray(most & np.concatenate([[False], most[:-1]]))


def _tail_scale(largest: Floats) -> float:
    """σ of the exponential tail of block maxima, no smaller than the largest of them asks for."""
    top = max(math.ceil(0.1 * len(largest)), 5)
    if len(largest) <= top:
        return 0.0
    excess = np.sort(largest)[::-1][:top] - np.sort(largest)[::-1][top]
    return float(max(excess.mean(), excess[0] / (np.log(top) + np.euler_gamma)))


def stuck(valid: Counts, whole: Counts, min_rows: int) -> NDArray[np.bool_]:
    """Which windows with one single value, (W,), cannot have it by chance: so many rows at the commonest value are unlikely (1e-9).

    Parameters
    ----------
    valid
        (W, cells): counts of the cells with a value.
    whole
        (cells,): the reference's.
    """
    rows = valid.sum(axis=1)
    largest = float(whole.max(initial=0)) / max(float(whole.sum()), 1.0)
    return np.asarray((rows >= min_rows) & (rows * np.log(max(largest, 1e-12)) < np.log(1e-9)))


def _angle(missing: Counts, rows: Floats) -> Floats:
    share = (missing + 0.375) / (np.maximum(rows, 1.0) + 0.75)
    return np.asarray(np.arcsin(np.sqrt(np.minimum(share, 1.0))))[:, None]


def _lowest(residual: Floats, k: int) -> Floats:
    """The smallest of each residual and the k - 1 before it; of the first ones, of what there is."""
    lowest = residual.copy()
    for back in range(1, k):
        lowest[back:] = np.minimum(lowest[back:], residual[:-back])
    return lowest
