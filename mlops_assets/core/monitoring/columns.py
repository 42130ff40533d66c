"""The columns a feature is counted from, as pandas and Arrow hold them, read into what can be counted. No bins, no files here."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.core.monitoring.counting import Floats, Ints

_Column = TypeVar("_Column")
_Result = TypeVar("_Result")


class ProfileError(ValueError):
    """A column is missing, or is of a type that its feature cannot be counted from."""


@dataclass(frozen=True)
class Numbers:
    """A column read as numbers: float64, NaN where missing or `wrong`, which marks what is there but is no number."""

    values: Floats
    wrong: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Levels:
    """A column read as text: for each row the position in `values`, or their number where it is missing.

    A null among the values stands for what is there but is no text.
    """

    codes: NDArray[np.signedinteger]
    values: pa.Array


# ---- by name, with an error that names them


def frame_numbers(frame: pd.DataFrame, name: str) -> Numbers:
    """A column of a frame as numbers."""
    return read(numbers_of, _column(frame, name), name)


def frame_levels(frame: pd.DataFrame, name: str) -> Levels:
    """A column of a frame as text."""
    return levels_of(_column(frame, name))


def place_of(places: Mapping[str, int], column: str, what: str) -> int:
    """Where a column is, of those there are."""
    if column not in places:
        raise _no_column(column, what, places)
    return places[column]


def read(reader: Callable[[_Column], _Result], column: _Column, name: str) -> _Result:
    """Read a column, or say whose column cannot be read."""
    try:
        return reader(column)
    except TypeError as error:
        raise ProfileError(f"The column of {name} {error}: convert it where the rows come from.") from error


def _column(frame: pd.DataFrame, name: str) -> "pd.Series[Any]":
    if name not in frame.columns:
        raise _no_column(name, name, frame.columns)
    return frame[name]


def _no_column(column: str, what: str, present: Iterable[object]) -> ProfileError:
    return ProfileError(f"There is no column {column} for {what} (there are: {', '.join(map(str, present))}).")


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
    return Levels(np.where(codes < 0, len(texts), codes), pa.array(texts, type=pa.string()))


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
    if pa.types.is_float64(kind):
        return Numbers((column.fill_null(np.nan) if column.null_count else column).to_numpy())
    if (
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        return Numbers(pc.cast(column, pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False))
    if pa.types.is_null(kind):
        return Numbers(np.full(len(column), np.nan))
    if is_text(kind):
        return numbers_of(pd.Series(column.to_pylist(), dtype=object))
    raise TypeError(f"holds {kind}, which is no number")


def arrow_levels(column: pa.Array) -> Levels:
    """`levels_of` for an Arrow array."""
    if not is_text(column.type):
        return Levels(column.is_null().to_numpy(zero_copy_only=False).view(np.int8), pa.nulls(1, pa.string()))
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    values = encoded.dictionary.cast(pa.string())
    indices = encoded.indices
    if indices.null_count:
        # narrow ones could not hold the position of the missing
        wide = indices if pa.types.is_int32(indices.type) else indices.cast(pa.int32())
        indices = wide.fill_null(len(values))
    codes = indices.to_numpy(zero_copy_only=False)
    if values.null_count:  # a dictionary may hold a null of its own, which is a missing cell too
        codes = np.append(
            np.where(values.is_null().to_numpy(zero_copy_only=False), len(values), np.arange(len(values))), len(values)
        )[codes]
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
