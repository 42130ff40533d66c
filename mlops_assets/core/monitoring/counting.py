"""Columns as pandas and Arrow hold them, made countable, and the counting itself. No bins, no files here."""

import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.scoring.jit import NUMBA, compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A block stays in the nearest cache while it is compared again and again. numpy pays for each call, so its blocks are longer;
# a column as short as one of them is counted before a kernel would be loaded, and is left to numpy.
_BLOCK_ROWS = 2_048
_NUMPY_BLOCK_ROWS = 16_384
# Hours between the first and the last moment up to which they are counted in one array (over a hundred years).
_MOST_HOURS = 1_000_000


def count_numbers(values: Floats, thresholds: Floats) -> tuple[Ints, float, float]:
    """Count the values between thresholds.

    Parameters
    ----------
    values
        Shape (n,); NaN is in no count.
    thresholds
        Shape (t,), ascending; a value equal to a threshold is counted below it.

    Returns
    -------
    tuple
        Counts up to the first threshold, between each two, and beyond the last, shape (t + 1,); the smallest and the
        largest value (inf and -inf where there is none).
    """
    below = np.zeros(len(thresholds) + 1, dtype=np.int64)
    if NUMBA and len(values) >= _NUMPY_BLOCK_ROWS:
        seen = np.ascontiguousarray(values).view()
        seen.flags.writeable = False  # as what comes from Arrow is: one type, compiled once
        _count_compiled(seen, thresholds, below)
    else:
        _count_numpy(values, thresholds, below)
    low, high = np.fmin.reduce(values, initial=np.inf), np.fmax.reduce(values, initial=-np.inf)
    below[1:] -= below[:-1].copy()
    return below, float(low), float(high)


def count_codes(codes: NDArray[np.signedinteger], levels: int) -> Ints:
    """Count how often each code from 0 to `levels` - 1 comes, shape (levels,).

    Raises
    ------
    ValueError
        If a code is none of these.
    """
    if NUMBA and codes.dtype == np.int32 and len(codes) >= _NUMPY_BLOCK_ROWS:
        seen = np.ascontiguousarray(codes).view()
        seen.flags.writeable = False
        counts = np.zeros(levels, dtype=np.int64)
        strange = _count_codes_compiled(seen, counts)
    else:
        counts = np.bincount(codes, minlength=levels).astype(np.int64, copy=False)
        strange = int(counts[levels:].sum())
    if strange:
        raise ValueError(f"{strange} of {len(codes)} codes are not from 0 to {levels - 1}; encode the column anew")
    return counts


@compiled
def _count_compiled(values: Floats, thresholds: Floats, below: Ints) -> None:
    """Add up how many values are at most each threshold, then how many are not NaN.

    No branch depends on the data and each loop runs over an index, so that they become vector instructions (a loop over the
    values themselves does not, and takes eight times as long); four thresholds share each reading.
    """
    several = len(thresholds) // 4 * 4
    for start in range(0, len(values), _BLOCK_ROWS):
        block = values[start : start + _BLOCK_ROWS]
        for place in range(0, several, 4):
            first, second = thresholds[place], thresholds[place + 1]
            third, fourth = thresholds[place + 2], thresholds[place + 3]
            to_first = to_second = to_third = to_fourth = 0
            for row in range(len(block)):
                to_first += block[row] <= first
                to_second += block[row] <= second
                to_third += block[row] <= third
                to_fourth += block[row] <= fourth
            below[place] += to_first
            below[place + 1] += to_second
            below[place + 2] += to_third
            below[place + 3] += to_fourth
        for place in range(several, len(thresholds)):
            last = thresholds[place]
            to_last = 0
            for row in range(len(block)):
                to_last += block[row] <= last
            below[place] += to_last
        present = 0
        for row in range(len(block)):
            present += block[row] == block[row]
        below[-1] += present


@compiled
def _count_codes_compiled(codes: NDArray[np.int32], counts: Ints) -> int:
    """Count the codes that are positions in `counts` there; return how many are not."""
    strange = 0
    for row in range(len(codes)):
        code = codes[row]
        if 0 <= code < len(counts):
            counts[code] += 1
        else:
            strange += 1
    return strange


def _count_numpy(values: Floats, thresholds: Floats, below: Ints) -> None:
    """`_count_compiled` without numba, and for short columns."""
    buffer = np.empty(min(len(values), _NUMPY_BLOCK_ROWS), dtype=np.bool_)
    for start in range(0, len(values), _NUMPY_BLOCK_ROWS):
        block = values[start : start + _NUMPY_BLOCK_ROWS]
        flags = buffer[: len(block)]
        for place, threshold in enumerate(thresholds):
            below[place] += np.count_nonzero(np.less_equal(block, threshold, out=flags))
        below[-1] += np.count_nonzero(np.equal(block, block, out=flags))


def phase_of(hours: Ints) -> Floats:
    """Sums over rows of cos and sin of the hour of the day, the day of the week and the day of the year.

    Parameters
    ----------
    hours
        Whole hours since 1970-01-01 00:00 UTC, shape (n,). An hour counts with its middle, so that the sums are the same
        whatever the order of the rows, and no row costs six trigonometric functions.

    Returns
    -------
    numpy.ndarray
        Shape (6,): cos and sin of the day, of the week (from Monday), of the year (365.2425 days).
    """
    if len(hours) == 0:
        return np.zeros(6)
    first = int(hours.min())
    if int(hours.max()) - first < _MOST_HOURS:
        weights = np.bincount(hours - first)
        at = np.arange(first, first + len(weights), dtype=np.int64)
    else:
        at, weights = np.unique(hours, return_counts=True)
    return np.asarray(weights @ phase_angles(at), dtype=np.float64)


def phase_angles(hours: Ints) -> Floats:
    """The six terms that `phase_of` sums, for each hour, shape (n, 6)."""
    middle = hours + 0.5
    # 1970-01-01 was a Thursday, three days after a Monday.
    turns = np.stack([middle / 24, (middle + 3 * 24) / (7 * 24), middle / (365.2425 * 24)], axis=1) * (2 * np.pi)
    return np.stack([np.cos(turns), np.sin(turns)], axis=2).reshape(len(hours), 6)
