"""What was known at a moment: which rows had happened and which labels had been observed by `as_of`."""

import hashlib
from datetime import datetime

import pandas as pd

from mlops_assets.core.schema import read_times
from mlops_assets.core.spec import ModelSpec

AS_OF = "as_of"
DATA_HASH = "data_hash"


def known_at(spec: ModelSpec, frame: pd.DataFrame, as_of: datetime, until: datetime) -> pd.DataFrame:
    """Rows that happened before `until`, with every label that was not yet observed at `as_of`, and its time, blanked.

    A row whose event time cannot be read stays, so that the validation sees and names it. The index is numbered anew.
    """
    frame = frame.reset_index(drop=True)
    if spec.event_time not in frame.columns:
        return frame
    times = read_times(frame[spec.event_time])
    happened = ~(times >= until)
    known = frame[happened].copy()
    unknown = _observed(spec, known, times[happened]) > as_of
    for column in (spec.label.column, spec.label.observed_at):
        if column in known.columns and unknown.any():
            known[column] = known[column].mask(unknown)
    return known.reset_index(drop=True)


def _observed(spec: ModelSpec, frame: pd.DataFrame, times: "pd.Series[pd.Timestamp]") -> "pd.Series[pd.Timestamp]":
    by_delay = times + spec.label.delay
    if spec.label.observed_at is None or spec.label.observed_at not in frame.columns:
        return by_delay
    return read_times(frame[spec.label.observed_at]).fillna(by_delay)


def hash_frame(frame: pd.DataFrame) -> str:
    """SHA-256 over names, dtypes and values of a frame, independent of its index and of the machine."""
    digest = hashlib.sha256()
    for column in frame.columns:
        digest.update(f"{column}\0{frame[column].dtype}\0".encode())
        values = frame[column]
        if values.dtype == object:
            values = values.map(str, na_action="ignore")
        digest.update(pd.util.hash_pandas_object(values, index=False).to_numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
