"""What a window of data looks like: per feature the counts of bins laid over the reference, which add up over rows.

Tests and verdicts are made of these counts elsewhere; the counting itself is in `counting.py`.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Literal, Self

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from mlops_assets.core.monitoring.columns import (
    Levels,
    Numbers,
    ProfileError,
    arrow_hours,
    arrow_levels,
    arrow_numbers,
    frame_levels,
    frame_numbers,
    hours_of,
    place_of,
    read,
)
from mlops_assets.core.monitoring.counting import Floats, Ints, count_codes, count_numbers, phase_of

Kind = Literal["number", "category"]

MAX_BINS = 20
# Levels with a cell of their own; rarer ones share one.
MAX_CELLS = 200
# Levels that are known at all. A feature with more is a name rather than a category, and new names are no news.
MAX_LEVELS = 10_000

# Of one column at a time: a megabyte, which the processor still has at hand when it is counted, and few calls.
_BATCH_ROWS = 131_072
_READ_BYTES = 2**18
_EVENT_TIME = "the event time"


class FeatureBins(msgspec.Struct, frozen=True, dict=True):
    """The cells one feature is counted in, as its reference values laid them out.

    Attributes
    ----------
    kind
        ``number`` also for integers and booleans.
    edges
        Inner edges of at most 20 bins with about equally many reference values, ascending, each itself a reference value; a
        value equal to an edge belongs to the bin below it. With up to 20 distinct values each has a bin.
    low, high
        Smallest and largest finite reference value; NaN where there was none (then any value is above).
    levels
        Levels seen in the reference, most frequent first. The first 200 have cells of their own, the others share one.
    singletons
        Levels seen once. `singletons` / reference rows estimates the share of rows whose level is new in fresh rows
        of the same kind (Good 1953).
    """

    name: str
    kind: Kind
    edges: tuple[float, ...] = ()
    low: float = float("nan")
    high: float = float("nan")
    levels: tuple[str, ...] = ()
    singletons: int = 0

    def __eq__(self, other: object) -> bool:
        # as bytes, where NaN equals NaN
        return isinstance(other, FeatureBins) and msgspec.msgpack.encode(self) == msgspec.msgpack.encode(other)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def cells(self) -> int:
        """How many cells the feature has.

        Of a number: below `low`, the bins, above `high`, missing. Of a category: the levels (and, beyond 200, the others
        together), unseen, missing.
        """
        if self.kind == "number":
            return len(self.edges) + 4
        return min(len(self.levels), MAX_CELLS) + (len(self.levels) > MAX_CELLS) + 2

    @cached_property
    def thresholds(self) -> Floats:
        """Values up to which the cells of a number reach, but for the last two, shape (cells - 2,)."""
        if np.isnan(self.low):
            return np.array([-np.inf, -np.inf])
        return np.array([np.nextafter(self.low, -np.inf), *self.edges, self.high])

    def cells_of(self, values: pa.Array) -> Ints:
        """The cell of each text of an Arrow array, counted from the category's first; a null stands for a level never seen."""
        ranks = pc.index_in(values, value_set=self._known, skip_nulls=True)
        cells = np.minimum(ranks.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), MAX_CELLS)
        return np.where(cells < 0, self.cells - 2, cells)

    @cached_property
    def _known(self) -> pa.Array:
        return pa.array(self.levels, type=pa.string())


class Binning(msgspec.Struct, frozen=True, dict=True):
    """The cells of all features of a model, one feature after the other."""

    features: tuple[FeatureBins, ...]

    @classmethod
    def of(cls, frame: pd.DataFrame, kinds: Mapping[str, Kind]) -> Self:
        """Lay the cells over reference rows.

        Parameters
        ----------
        frame
            Reference rows, shape (n, at least the features).
        kinds
            Kind of each feature, in the order of the cells.

        Raises
        ------
        ProfileError
            If a feature has no column, or values of another kind.
        """
        made = (_number_bins if kind == "number" else _category_bins for kind in kinds.values())
        return cls(tuple(bins(frame, name) for bins, name in zip(made, kinds, strict=True)))

    @cached_property
    def offsets(self) -> Ints:
        """First cell of each feature, and the number of all cells, shape (features + 1,)."""
        return np.cumsum([0, *(one.cells for one in self.features)], dtype=np.int64)

    @property
    def cells(self) -> int:
        """Number of cells of all features together."""
        return int(self.offsets[-1])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features, in the order of their cells."""
        return tuple(one.name for one in self.features)

    def slice_of(self, name: str) -> slice:
        """Where the cells of a feature are."""
        place = self.names.index(name)
        return slice(int(self.offsets[place]), int(self.offsets[place + 1]))


@dataclass(frozen=True, eq=False)
class WindowProfile:
    """The counts of a window. Profiles of parts add up to the profile of the whole, in any order.

    Attributes
    ----------
    rows
        Rows counted.
    counts
        Rows in each cell of the binning, shape (cells,); each feature's counts sum to `rows`.
    minimum, maximum
        Smallest and largest number seen, shape (features,); inf and -inf where none was, NaN for categories.
    phase
        Sums over rows of cos and sin of the hour of the day, the day of the week and the day of the year (UTC, to the hour),
        shape (6,); zeros where no times were given.
    """

    rows: int
    counts: NDArray[np.int64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    phase: NDArray[np.float64]

    @classmethod
    def empty(cls, binning: Binning) -> Self:
        """The profile of no rows, which changes nothing when added."""
        numbers = np.array([one.kind == "number" for one in binning.features], dtype=np.bool_)
        return cls(
            rows=0,
            counts=np.zeros(binning.cells, dtype=np.int64),
            minimum=np.where(numbers, np.inf, np.nan),
            maximum=np.where(numbers, -np.inf, np.nan),
            phase=np.zeros(6),
        )

    def __add__(self, other: "WindowProfile") -> "WindowProfile":
        if self.counts.shape != other.counts.shape:
            raise ValueError(
                f"Profiles of {len(self.counts)} and {len(other.counts)} cells do not add up: count both with one binning."
            )
        return WindowProfile(
            rows=self.rows + other.rows,
            counts=self.counts + other.counts,
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            phase=self.phase + other.phase,
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, WindowProfile)
            and self.rows == other.rows
            and np.array_equal(self.counts, other.counts)
            and np.array_equal(self.minimum, other.minimum, equal_nan=True)
            and np.array_equal(self.maximum, other.maximum, equal_nan=True)
            and np.allclose(
                self.phase, other.phase, rtol=0, atol=1e-9 * max(self.rows, 1)
            )  # sums of floats, in any order
        )

    __hash__ = None  # type: ignore[assignment]


def profile_frame(
    binning: Binning, frame: pd.DataFrame, times: "pd.Series[pd.Timestamp] | None" = None
) -> WindowProfile:
    """Count the rows of a frame.

    A number may come as float, integer, boolean (with or without nulls) or as text that says one; None, NaN and NA are
    missing. What is no number counts as above range; what is neither text nor missing in a category counts as unseen.

    Parameters
    ----------
    binning
        The reference's cells.
    frame
        Rows, shape (n, at least the features).
    times
        Event time of each row, shape (n,), for the phase.

    Raises
    ------
    ProfileError
        If a feature has no column, or its column is of a type that holds neither numbers nor text.
    """
    tally = _Tally(binning)
    for place, one in enumerate(binning.features):
        if one.kind == "number":
            tally.add_numbers(place, frame_numbers(frame, one.name))
        else:
            tally.add_levels(place, frame_levels(frame, one.name))
    if times is not None:
        tally.phase += phase_of(read(hours_of, times, str(times.name)))
    return tally.profile(len(frame))


def profile_batches(
    binning: Binning,
    batches: Iterable[pa.RecordBatch],
    times: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> WindowProfile:
    """Count the rows of Arrow batches, one after the other; `profile_frame` tells what is counted as what.

    Parameters
    ----------
    times
        Column of the event time, a timestamp (UTC where it has no zone), for the phase.
    columns
        Column of each feature, where it is not the feature's name.

    Raises
    ------
    ProfileError
        If a feature has no column, or its column is of a type that holds neither numbers nor text.
    """
    tally = _Tally(binning)
    rows = 0
    for batch in batches:
        rows += batch.num_rows
        places = {name: place for place, name in enumerate(batch.schema.names)}
        for place, one in enumerate(binning.features):
            name = (columns or {}).get(one.name, one.name)
            tally.add_column(place, batch.column(place_of(places, name, one.name)))
        if times is not None:
            tally.add_times(batch.column(place_of(places, times, _EVENT_TIME)), times)
    return tally.profile(rows)


def profile_parquet(
    binning: Binning,
    file: str | Path | IO[bytes],
    times: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> WindowProfile:
    """Count the rows of a Parquet file, one column after the other in batches, so that memory does not grow with the file.

    Only the columns that are counted are read; `profile_batches` tells the parameters.
    """
    tally = _Tally(binning)
    named = [(columns or {}).get(one.name, one.name) for one in binning.features]
    texts = [name for name, one in zip(named, binning.features, strict=True) if one.kind == "category"]
    with open_parquet(file, texts) as opened:
        places = {name: place for place, name in enumerate(opened.schema_arrow.names)}
        for place, (name, one) in enumerate(zip(named, binning.features, strict=True)):
            place_of(places, name, one.name)
            for column in read_column(opened, name):
                tally.add_column(place, column)
        if times is not None:
            place_of(places, times, _EVENT_TIME)
            for column in read_column(opened, times):
                tally.add_times(column, times)
        return tally.profile(opened.metadata.num_rows)


def open_parquet(file: str | Path | IO[bytes], texts: Sequence[str]) -> parquet.ParquetFile:
    """Open a Parquet file for `read_column`; the columns of `texts` are read as dictionaries."""
    return parquet.ParquetFile(file, read_dictionary=list(texts), pre_buffer=False, buffer_size=_READ_BYTES)


def read_column(opened: parquet.ParquetFile, name: str) -> Iterator[pa.Array]:
    """Decode a column in batches."""
    for batch in opened.iter_batches(_BATCH_ROWS, columns=[name], use_threads=False):
        yield batch.column(batch.schema.names.index(name))  # `columns` also takes the parts of a nested column


class _Tally:
    """Counts in the making."""

    def __init__(self, binning: Binning) -> None:
        empty = WindowProfile.empty(binning)
        self._features = binning.features
        self._cells = [slice(*pair) for pair in itertools.pairwise(binning.offsets.tolist())]
        self._thresholds = [one.thresholds for one in binning.features]
        self._dictionaries: dict[int, tuple[pa.Array, Ints]] = {}
        self._counts, self._minimum, self._maximum, self.phase = empty.counts, empty.minimum, empty.maximum, empty.phase

    def add_column(self, place: int, column: pa.Array) -> None:
        one = self._features[place]
        if one.kind == "number":
            self.add_numbers(place, read(arrow_numbers, column, one.name))
        else:
            self.add_levels(place, arrow_levels(column))

    def add_times(self, column: pa.Array, name: str) -> None:
        self.phase += phase_of(read(arrow_hours, column, name))

    def add_numbers(self, place: int, numbers: Numbers) -> None:
        inside, low, high = count_numbers(numbers.values, self._thresholds[place])
        wrong = 0 if numbers.wrong is None else int(np.count_nonzero(numbers.wrong))
        counts = self._counts[self._cells[place]]
        counts[:-1] += inside
        counts[-2] += wrong
        counts[-1] += len(numbers.values) - int(inside.sum()) - wrong
        self._minimum[place] = min(self._minimum[place], low)
        self._maximum[place] = max(self._maximum[place], high)

    def add_levels(self, place: int, levels: Levels) -> None:
        by_value = count_codes(levels.codes, len(levels.values) + 1)
        counts = self._counts[self._cells[place]]
        np.add.at(counts, self._level_cells(place, levels.values), by_value[:-1])
        counts[-1] += by_value[-1]

    def profile(self, rows: int) -> WindowProfile:
        return WindowProfile(rows, self._counts, self._minimum, self._maximum, self.phase)

    def _level_cells(self, place: int, values: pa.Array) -> Ints:
        # the batches of a row group come with one dictionary
        known, cells = self._dictionaries.get(place, (None, None))
        if known is None or cells is None or not known.equals(values):
            cells = self._features[place].cells_of(values)
            self._dictionaries[place] = values, cells
        return cells


# ---- bins of the reference


def _number_bins(frame: pd.DataFrame, name: str) -> FeatureBins:
    values = frame_numbers(frame, name).values
    finite = np.sort(values[np.isfinite(values)])
    if len(finite) == 0:
        return FeatureBins(name, "number")
    distinct = finite[np.flatnonzero(np.diff(finite, prepend=-np.inf))]
    if len(distinct) <= MAX_BINS:
        edges = distinct[:-1]
    else:
        edges = np.unique(np.quantile(finite, np.arange(1, MAX_BINS) / MAX_BINS, method="inverted_cdf"))
        # where much of the data is the largest value, that value has a bin of its own
        edges = np.unique(np.minimum(edges, distinct[-2]))
    return FeatureBins(name, "number", tuple(edges.tolist()), float(finite[0]), float(finite[-1]))


def _category_bins(frame: pd.DataFrame, name: str) -> FeatureBins:
    levels = frame_levels(frame, name)
    if levels.values.null_count:
        raise ProfileError(
            f"{name} is a category, but holds values that are no text: write them as text, or call it a number."
        )
    counts = np.bincount(levels.codes, minlength=len(levels.values) + 1)[:-1]
    ranked = sorted(zip((-counts).tolist(), levels.values.to_pylist(), strict=True))
    seen = tuple(level for negative, level in ranked if negative)[:MAX_LEVELS]
    return FeatureBins(name, "category", levels=seen, singletons=int(np.count_nonzero(counts == 1)))
