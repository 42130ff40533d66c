"""Columns as pandas and Arrow hold them, made countable, and the counting itself. No bins, no files here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A block of values and one of comparisons stay in the first-level cache together.
_BLOCK_ROWS = 16_384
# Hours between the first and the last moment up to which they are counted in one array (over a hundred years).
_MOST_HOURS = 1_000_000


@dataclass(frozen=True)
class Numbers:
    """A column read as numbers: float64, NaN where missing or `wrong`, which marks what is there but is no number."""

    values: Floats
    wrong: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Levels:
    """A column read as text: for each row the position in `values`, -1 where missing. A null value stands for no text."""

    codes: NDArray[np.signedinteger]
    values: pa.Array


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
    low, high = np.inf, -np.inf
    buffer = np.empty(min(len(values), _BLOCK_ROWS), dtype=np.bool_)
    for start in range(0, len(values), _BLOCK_ROWS):
        block = values[start : start + _BLOCK_ROWS]
        flags = buffer[: len(block)]
        for place, threshold in enumerate(thresholds):
            below[place] += np.count_nonzero(np.less_equal(block, threshold, out=flags))
        below[-1] += np.count_nonzero(np.equal(block, block, out=flags))
        low = min(low, float(np.fmin.reduce(block, initial=np.inf)))
        high = max(high, float(np.fmax.reduce(block, initial=-np.inf)))
    return np.diff(below, prepend=0), low, high


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


# ---- columns of a frame


def numbers_of(column: "pd.Series[Any]") -> Numbers:
    """Read a pandas column as numbers; text that says a number is one.

    Raises
    ------
    TypeError
        If the column holds neither numbers, booleans nor text.
    """
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        return Numbers(np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64))
    if not (pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype)):
        raise TypeError(f"holds {column.dtype}, which is no number")
    values = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return Numbers(values, np.isnan(values) & column.notna().to_numpy())


def levels_of(column: "pd.Series[Any]") -> Levels:
    """Read a pandas column as text. What is neither text nor missing is a level that no reference knows."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, values = column.cat.codes.to_numpy(), column.cat.categories
    else:
        codes, values = pd.factorize(column)
    texts = [value if isinstance(value, str) else None for value in values]
    return Levels(np.asarray(codes), pa.array(texts, type=pa.string()))


def hours_of(times: "pd.Series[pd.Timestamp]") -> Ints:
    """Whole hours since 1970 of each moment (n,); a time without zone is UTC. Rows without a time are left out.

    Raises
    ------
    TypeError
        If the column holds no times.
    """
    if not pd.api.types.is_datetime64_any_dtype(times.dtype):
        raise TypeError(f"holds {times.dtype}, which is no time")
    moments = times.dropna()
    if moments.dt.tz is not None:
        moments = moments.dt.tz_convert("UTC").dt.tz_localize(None)
    return np.asarray(moments.to_numpy().astype("datetime64[h]").astype(np.int64))


# ---- columns of a record batch


def arrow_numbers(column: pa.Array) -> Numbers:
    """`numbers_of` for an Arrow array."""
    kind = column.type
    if pa.types.is_float64(kind) and column.null_count == 0:
        return Numbers(column.to_numpy())
    if (
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        return Numbers(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    if pa.types.is_null(kind):
        return Numbers(np.full(len(column), np.nan))
    if is_text(kind):
        return numbers_of(pd.Series(column.to_pylist(), dtype=object))
    raise TypeError(f"holds {kind}, which is no number")


def arrow_levels(column: pa.Array) -> Levels:
    """`levels_of` for an Arrow array."""
    if not is_text(column.type):
        return Levels(
            np.where(column.is_valid().to_numpy(zero_copy_only=False), 0, -1), pa.array([None], type=pa.string())
        )
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    indices = encoded.indices
    codes = (indices if indices.null_count == 0 else indices.fill_null(-1)).to_numpy(zero_copy_only=False)
    values = encoded.dictionary.cast(pa.string())
    if values.null_count:  # a dictionary may hold a null of its own, which is a missing cell too
        codes = np.where(values.is_null().to_numpy(zero_copy_only=False)[codes] & (codes >= 0), -1, codes)
    return Levels(codes, values)


def arrow_hours(column: pa.Array) -> Ints:
    """`hours_of` for an Arrow array.

    Raises
    ------
    TypeError
        If the column holds no times.
    """
    if not pa.types.is_timestamp(column.type):
        raise TypeError(f"holds {column.type}, which is no time")
    moments = column if column.null_count == 0 else column.drop_null()
    per_hour = 3600 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    return np.asarray(moments.view(pa.int64()).to_numpy(zero_copy_only=False) // per_hour)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is text, dictionary-encoded or plain."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
