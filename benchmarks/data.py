"""The rows that the benchmarks measure on: real ones out of wheels, and made-up ones where only speed counts."""

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.common import SEED
from mlops_assets.sources.nycflights import load_flights

Kind = Literal["number", "category"]


class Data(NamedTuple):
    """Rows in time order: features with their kinds, the time of each row (where there is one), and a 0/1 label (NaN: unknown)."""

    name: str
    frame: pd.DataFrame
    kinds: dict[str, Kind]
    times: pd.Series | None
    label: pd.Series

    @property
    def features(self) -> pd.DataFrame:
        return self.frame[list(self.kinds)]


FLIGHT_KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys(("carrier", "origin", "destination"), "category"),
    **dict.fromkeys(("distance", "departure_minute", "weekday", "aircraft_age", "seats"), "number"),
    **dict.fromkeys(("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"), "number"),
    **dict.fromkeys(("origin_delay_3h", "origin_delay_24h", "carrier_delay_24h"), "number"),
}

CENSUS_KINDS: Final[dict[str, Kind]] = {
    "AGEP": "number",
    **dict.fromkeys(("SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG", "MIL", "ANC", "NATIVITY"), "category"),
    **dict.fromkeys(("DEAR", "DEYE", "DREM", "SEX", "RAC1P"), "category"),
}

SPEED_NUMBERS: Final = 12
SPEED_LEVELS: Final = (2, 3, 5, 10, 20, 50, 100, 300)


@functools.cache
def flights() -> Data:
    """The 336,776 flights of 2013, known at scheduled departure; the label is an arrival 15 minutes late or more."""
    frame = load_flights()
    return Data("flights", frame, dict(FLIGHT_KINDS), frame["scheduled_departure"], frame["late"].astype("float64"))


@functools.cache
def census() -> Data:
    """Employment in Massachusetts, US census 2015 (68,785 rows, the reference) and 2016 to 2018, out of NannyML's wheel.

    Categories are text. `frame` also has ``year`` and NannyML's own ``predicted_probability`` and ``prediction``.
    """
    folder = wheel_folder("nannyml") / "datasets" / "data"
    reference = pd.read_parquet(folder / "employment_MA_reference.pq")
    analysis = pd.read_parquet(folder / "employment_MA_analysis.pq")
    target = pd.read_parquet(folder / "employment_MA_analysis_target.pq")
    analysis = analysis.merge(target, how="left", on="id", validate="one_to_one")
    untyped = dict.fromkeys(CENSUS_KINDS, object)  # the files know different categories
    frame = pd.concat([reference.astype(untyped), analysis.astype(untyped)])
    frame = frame.sort_values("id", kind="stable", ignore_index=True)
    for name, kind in CENSUS_KINDS.items():
        frame[name] = frame[name].astype("float64") if kind == "number" else frame[name].map(str, na_action="ignore")
    return Data("census", frame, dict(CENSUS_KINDS), None, frame["employed"].astype("float64"))


def wheel_folder(package: str) -> Path:
    """Where an installed package lies; it is not imported, which for a peer takes seconds and may call home."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: run `make .venv-bench` and use .venv-bench/bin/python.")
    return Path(spec.origin).parent


def made_up(rows: int, seed: int = SEED) -> Data:
    """Twelve numbers of different shapes, rounding and missing rates, and eight texts of 2 to 300 levels; nothing drifts."""
    random = np.random.default_rng(seed)
    columns: dict[str, object] = {}
    for place in range(SPEED_NUMBERS):
        shape = random.normal if place % 3 == 0 else random.standard_exponential if place % 3 == 1 else random.random
        values = shape(size=rows) * 10.0 ** (place % 4)
        if place % 4 == 1:
            values = np.round(values)
        if place % 3 == 0:
            values[random.random(rows) < 0.02] = np.nan
        columns[f"number_{place}"] = values
    for place, levels in enumerate(SPEED_LEVELS):
        names = np.array([f"level {level}" for level in range(levels)], dtype=object)
        weights = 1 / np.arange(1, levels + 1)
        codes = random.choice(levels, size=rows, p=weights / weights.sum())
        texts = pd.Categorical.from_codes(codes, names).astype(object)
        if place % 4 == 3:
            texts[random.random(rows) < 0.02] = None
        columns[f"text_{place}"] = texts
    frame = pd.DataFrame(columns)
    times = pd.Series(pd.date_range("2025-01-01", periods=rows, freq="s", tz="UTC", unit="us"), name="event_time")
    kinds: dict[str, Kind] = {name: "number" if name.startswith("number") else "category" for name in columns}
    return Data("made up", frame, kinds, times, pd.Series(np.full(rows, np.nan)))
