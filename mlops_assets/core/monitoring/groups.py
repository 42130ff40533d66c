"""Many windows of one frame counted at once: the blocks of a reference, the windows of a replay."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_assets.core.monitoring.columns import frame_levels, frame_numbers, hours_of, read
from mlops_assets.core.monitoring.counting import Ints, phase_angles
from mlops_assets.core.monitoring.profile import Binning, WindowProfile


def profile_groups(
    binning: Binning, frame: pd.DataFrame, groups: Ints, times: "pd.Series[pd.Timestamp] | None" = None
) -> list[WindowProfile]:
    """Count many windows of one frame at once, as `profile_frame` would count the rows of each.

    Parameters
    ----------
    frame
        Rows, shape (n, at least the features).
    groups
        Number of each row's window, shape (n,), from 0; rows with -1 are in none.
    times
        Event time of each row, shape (n,), for the phase.

    Returns
    -------
    list
        One profile for each window up to the largest number.
    """
    kept = np.flatnonzero(groups >= 0)
    kept = kept[np.argsort(groups[kept], kind="stable")]
    of_row = groups[kept]
    windows = int(of_row[-1]) + 1 if len(kept) else 0
    rows = np.bincount(of_row, minlength=windows)
    starts = np.flatnonzero(np.diff(of_row, prepend=-1))
    cells = row_cells(binning, frame)
    counts = np.empty((windows, binning.cells), dtype=np.int64)
    for one, first, column in zip(binning.features, binning.offsets[:-1], cells.T, strict=True):
        flat = np.bincount(of_row * one.cells + (column[kept] - first), minlength=windows * one.cells)
        counts[:, first : first + one.cells] = flat.reshape(windows, one.cells)
    empty = WindowProfile.empty(binning)
    minimum, maximum = np.tile(empty.minimum, (windows, 1)), np.tile(empty.maximum, (windows, 1))
    for place, one in enumerate(binning.features):
        if one.kind == "number" and len(kept):
            values = frame_numbers(frame, one.name).values[kept]
            absent = np.isnan(values)
            minimum[of_row[starts], place] = np.minimum.reduceat(np.where(absent, np.inf, values), starts)
            maximum[of_row[starts], place] = np.maximum.reduceat(np.where(absent, -np.inf, values), starts)
    phase = np.zeros((windows, 6))
    if times is not None:
        timed = times.iloc[kept].notna().to_numpy()
        hours, at = np.unique(read(hours_of, times.iloc[kept], str(times.name)), return_inverse=True)
        np.add.at(phase, of_row[timed], phase_angles(hours)[at])
    return [WindowProfile(int(rows[i]), counts[i], minimum[i], maximum[i], phase[i]) for i in range(windows)]


def row_cells(binning: Binning, frame: pd.DataFrame) -> NDArray[np.int32]:
    """The cell each value of a frame falls in: a position in `WindowProfile.counts`, shape (n, features)."""
    cells = np.empty((len(frame), len(binning.features)), dtype=np.int32, order="F")
    for place, (one, offset) in enumerate(zip(binning.features, binning.offsets[:-1], strict=True)):
        if one.kind == "number":
            numbers = frame_numbers(frame, one.name)
            column = np.searchsorted(one.thresholds, numbers.values, side="left")
            missing = np.isnan(numbers.values) if numbers.wrong is None else np.isnan(numbers.values) & ~numbers.wrong
            column[missing] = one.cells - 1
        else:
            levels = frame_levels(frame, one.name)
            column = np.append(one.cells_of(levels.values), one.cells - 1)[levels.codes]
        cells[:, place] = column + offset
    return cells
