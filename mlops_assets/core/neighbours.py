"""Missing numbers filled from their nearest donors: one definition for training and for service.

scikit-learn's `KNNImputer` takes distances from matrix products, whose rounding changes with the number of rows given at
once, and breaks ties as `argpartition` happens to: one row alone may be filled otherwise than the same row among others.
Here each row is filled by itself, in a fixed order of operations, so that both engines give the same bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Donors:
    """Rows to fill from.

    Attributes
    ----------
    values
        Shape (m, q), in the features' own units, NaN where missing.
    scaled
        `values` divided by `scales`: what distances are measured in.
    scales
        Shape (q,), above zero.
    means
        Shape (q,): column means, 0 for a column without a value; taken when no donor has a distance.
    neighbours
        Donors that are averaged, at least 1.
    """

    values: Floats
    scaled: Floats
    scales: Floats
    means: Floats
    neighbours: int

    @classmethod
    def of(cls, values: Floats, scales: Floats, neighbours: int) -> "Donors":
        """Prepare the donors `values`, shape (m, q), and their `scales`, shape (q,)."""
        means = np.zeros(len(scales))
        for column in range(len(scales)):
            known = values[~np.isnan(values[:, column]), column]
            if len(known):
                means[column] = math.fsum(known) / len(known)
        return cls(np.ascontiguousarray(values), values / scales, scales, means, neighbours)


def fill_from_donors(rows: Floats, columns: NDArray[np.int64], donors: Donors, *, numba: bool | None = None) -> Floats:
    """Fill the missing values of some columns with the mean over the nearest donors that have that column.

    The distance is the mean squared difference of the scaled values over the columns that both rows have (Dixon 1979; the
    order is that of scikit-learn's `nan_euclidean_distances`). Of equally near donors the earlier ones are taken. A row
    that shares no column with any donor gets the column's mean.

    Parameters
    ----------
    rows
        Shape (n, q), in the features' own units, NaN where missing; not changed.
    columns
        Columns to fill, shape (c,); other columns keep their NaN.
    donors
        What to fill from.
    numba
        Take the compiled kernel; numpy gives the same bits. Where numba is installed when None.

    Returns
    -------
    ndarray
        A filled copy, shape (n, q).
    """
    filled = rows.copy()
    holed = np.flatnonzero(np.isnan(rows[:, columns]).any(axis=1))
    if len(holed) == 0:
        return filled
    fill = _fill_numpy if numba is False else _fill_where_compiled(numba)
    fill(rows / donors.scales, holed, columns, donors.scaled, donors.values, donors.means, donors.neighbours, filled)
    return filled


def _fill_where_compiled(numba: bool | None) -> Callable[..., None]:
    # Numba takes half a second to import, which only those pay who fill with it.
    from mlops_assets.core.neighbours_compiled import fill_compiled
    from mlops_assets.core.scoring.jit import NUMBA

    return fill_compiled if numba or NUMBA else _fill_numpy


def _fill_numpy(
    scaled: Floats,
    holed: NDArray[np.int64],
    columns: NDArray[np.int64],
    donors: Floats,
    values: Floats,
    means: Floats,
    neighbours: int,
    filled: Floats,
) -> None:
    for row in holed:
        distances = _distances_numpy(scaled[row], donors)
        for column in columns:
            if not np.isnan(filled[row, column]):
                continue
            able = np.flatnonzero(~np.isnan(distances) & ~np.isnan(values[:, column]))
            nearest = able[np.argsort(distances[able], kind="stable")[:neighbours]]
            total = 0.0
            for donor in nearest:
                total += values[donor, column]
            filled[row, column] = total / len(nearest) if len(nearest) else means[column]


def _distances_numpy(row: Floats, donors: Floats) -> Floats:
    total = np.zeros(len(donors))
    shared = np.zeros(len(donors))
    with np.errstate(over="ignore", invalid="ignore"):
        for column in range(donors.shape[1]):
            difference = row[column] - donors[:, column]
            known = ~np.isnan(difference)
            total += np.where(known, difference * difference, 0.0)
            shared += known
        distances: Floats = np.divide(total, shared, out=np.full(len(donors), np.nan), where=shared > 0)
    return distances
