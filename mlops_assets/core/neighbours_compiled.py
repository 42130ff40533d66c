"""The kernel of `neighbours.py` for numba, apart from it because numba takes half a second to import."""

import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.scoring.arrays import Floats
from mlops_assets.core.scoring.jit import compiled


@compiled
def fill_compiled(
    scaled: Floats,
    holed: NDArray[np.int64],
    columns: NDArray[np.int64],
    donors: Floats,
    values: Floats,
    means: Floats,
    neighbours: int,
    filled: Floats,
) -> None:
    """Fill the rows `holed` of `filled` in place; the arguments are those of `_fill_numpy` in `neighbours.py`."""
    distances = np.empty(len(donors))
    nearest = np.empty(neighbours, dtype=np.int64)
    for row in holed:
        for donor in range(len(donors)):
            total = 0.0
            shared = 0
            for column in range(donors.shape[1]):
                difference = scaled[row, column] - donors[donor, column]
                if not np.isnan(difference):
                    total += difference * difference
                    shared += 1
            distances[donor] = total / shared if shared > 0 else np.nan
        for column in columns:
            if not np.isnan(filled[row, column]):
                continue
            found = 0
            for donor in range(len(donors)):
                distance = distances[donor]
                if np.isnan(distance) or np.isnan(values[donor, column]):
                    continue
                if found == neighbours and not distance < distances[nearest[found - 1]]:
                    continue
                place = found if found < neighbours else neighbours - 1
                while place > 0 and distance < distances[nearest[place - 1]]:
                    nearest[place] = nearest[place - 1]
                    place -= 1
                nearest[place] = donor
                if found < neighbours:
                    found += 1
            if found == 0:
                filled[row, column] = means[column]
                continue
            total = 0.0
            for place in range(found):
                total += values[nearest[place], column]
            filled[row, column] = total / found
