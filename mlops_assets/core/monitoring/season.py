"""What a reference says a window should look like at its hour, weekday and season; and what remains (leave-one-out residuals)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCKS_PER_COLUMN = 6
GAIN = 0.8  # a larger design must cut the squared error by a fifth
_RIDGE = 0.5  # in blocks: the columns are standardised
_WIDEST_GAP = np.pi / 3  # a season is fitted only where the reference goes round the year


@dataclass(frozen=True)
class Seasons:
    """Ridge regressions of S statistics on where in the day, the week and the year a window lies.

    The columns are the first harmonics of hour, weekday and day of the year as means over the window's rows, and for the
    hour and weekday their second harmonics. Each statistic has the design whose leave-one-out error (Allen's PRESS,
    1974) is smallest by a clear margin; many have none but the mean.

    Attributes
    ----------
    residuals
        (B, S): leave-one-out residuals of the reference blocks.
    parameters
        (S,): fitted coefficients with the intercept.
    """

    residuals: Floats
    parameters: NDArray[np.int64]
    _designs: tuple["_Design", ...]
    _chosen: NDArray[np.int64]
    _coefficients: tuple[Floats, ...]

    @classmethod
    def fit(cls, values: Floats, weight: Floats, phase: Floats) -> "Seasons":
        """Fit on reference blocks.

        Parameters
        ----------
        values
            (B, S): statistics of the blocks.
        weight
            (B,): rows of the blocks; blocks without any do not count.
        phase
            (B, 6): mean cos and sin of hour, weekday, day of the year.
        """
        used = weight > 0
        designs = _designs(phase[used])
        shape = values.shape[1]
        best = np.full(shape, np.inf)
        chosen = np.zeros(shape, dtype=np.int64)
        residuals = np.zeros_like(values)
        coefficients = []
        for position, design in enumerate(designs):
            matrix = design.columns(phase[used])
            gram = matrix.T @ matrix + np.diag([0.0] + [_RIDGE] * (matrix.shape[1] - 1))
            solved = np.linalg.solve(gram, matrix.T)
            leverage = np.minimum(np.einsum("bp,pb->b", matrix, solved), 0.99)
            coefficient = solved @ values[used]
            left = (values[used] - matrix @ coefficient) / (1 - leverage)[:, None]
            error = (left**2).sum(axis=0)
            better = error < (best if position == 0 else GAIN * best)
            best = np.where(better, error, best)
            chosen[better] = position
            residuals[np.ix_(used, better)] = left[:, better]
            coefficients.append(coefficient)
        parameters = np.array([design.size for design in designs])[chosen]
        return cls(residuals, parameters, tuple(designs), chosen, tuple(coefficients))

    def expected(self, phase: Floats) -> tuple[Floats, Floats]:
        """Expected statistics of windows, (W, S), and how much more uncertain they are than a reference block's, (W, S) ≥ 1.

        `phase` has shape (W, 6). A window that lies where no reference block lay has a large factor.
        """
        mean = np.zeros((len(phase), len(self._chosen)))
        factor = np.ones_like(mean)
        for position, design in enumerate(self._designs):
            mine = self._chosen == position
            if not mine.any():
                continue
            matrix = design.columns(phase)
            mean[:, mine] = matrix @ self._coefficients[position][:, mine]
            leverage = np.einsum("wp,pq,wq->w", matrix, design.inverse, matrix)
            factor[:, mine] = np.maximum((1 + leverage) / (1 + design.usual), 1.0)[:, None]
        return mean, factor


@dataclass(frozen=True)
class _Design:
    parts: tuple[str, ...]
    centre: Floats
    scale: Floats
    inverse: Floats
    usual: float
    size: int

    def columns(self, phase: Floats) -> Floats:
        raw = _raw(self.parts, phase)
        return np.concatenate([np.ones((len(phase), 1)), (raw - self.centre) / self.scale], axis=1)


def _designs(phase: Floats) -> list[_Design]:
    """The mean alone first, then every design that the blocks allow, smaller ones first."""
    blocks = len(phase)
    found = []
    for parts in ((), ("hour",), ("week",), ("hour", "week"), ("year",), ("week", "year"), ("hour", "week", "year")):
        raw = _raw(parts, phase)
        spread = raw.std(axis=0) if raw.size else np.zeros(raw.shape[1])
        if parts and (
            any(_raw((part,), phase).std(axis=0).max() < 0.02 for part in parts)
            or blocks < BLOCKS_PER_COLUMN * (1 + raw.shape[1])
            or ("year" in parts and not _goes_round(phase[:, 4:6]))
        ):
            continue
        centre = raw.mean(axis=0) if blocks else np.zeros(raw.shape[1])
        scale = np.maximum(spread, 0.02)
        matrix = np.concatenate([np.ones((blocks, 1)), (raw - centre) / scale], axis=1)
        inverse = np.linalg.inv(matrix.T @ matrix + np.diag([1e-9] + [_RIDGE] * raw.shape[1]))
        usual = float(np.einsum("bp,pq,bq->b", matrix, inverse, matrix).mean()) if blocks else 1.0
        found.append(_Design(parts, centre, scale, inverse, usual, 1 + raw.shape[1]))
    return found


def _raw(parts: tuple[str, ...], phase: Floats) -> Floats:
    columns: list[Floats] = []
    for part in parts:
        cos, sin = (phase[:, 2 * ("hour", "week", "year").index(part) + side] for side in (0, 1))
        columns += [cos, sin]
        if part != "year":
            columns += [cos**2 - sin**2, 2 * cos * sin]
    return np.stack(columns, axis=1) if columns else np.zeros((len(phase), 0))


def _goes_round(year: Floats) -> bool:
    angle = np.sort(np.arctan2(year[:, 1], year[:, 0]))
    gaps = np.diff(np.concatenate([angle, angle[:1] + 2 * np.pi]))
    return bool(gaps.max() < _WIDEST_GAP)
