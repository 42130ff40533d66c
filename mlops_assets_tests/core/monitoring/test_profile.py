import io
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mlops_assets.core.monitoring.columns import ProfileError
from mlops_assets.core.monitoring.groups import profile_groups, row_cells
from mlops_assets.core.monitoring.profile import (
    MAX_CELLS,
    MAX_LEVELS,
    Binning,
    FeatureBins,
    WindowProfile,
    profile_batches,
    profile_frame,
    profile_parquet,
)

KINDS = {"temp": "number", "gust": "number", "wet": "number", "carrier": "category", "airport": "category"}
TIMES = [
    datetime(1969, 12, 31, 23, 30, tzinfo=UTC),
    datetime(2000, 2, 29, 1, 1, tzinfo=UTC),
    datetime(2013, 3, 10, tzinfo=UTC),
]
RANDOM = np.random.default_rng(7)


def rows(count: int, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "temp": random.normal(50, 20, count).round(1),
            "gust": np.where(random.random(count) < 0.7, np.nan, random.exponential(10, count)),
            "wet": random.random(count) < 0.1,
            "carrier": random.choice(np.array(["AA", "ÜX", "日本", None], dtype=object), count),
            "airport": random.choice(np.array([f"A{n}" for n in range(40)], dtype=object), count),
        }
    )
    frame["at"] = pd.Timestamp("2013-03-01", tz="UTC") + pd.to_timedelta(random.integers(0, 10**7, count), unit="s")
    return frame


REFERENCE = rows(3000)
BINNING = Binning.of(REFERENCE, KINDS)


def cells(profile: WindowProfile, name: str, binning: Binning = BINNING) -> list[int]:
    return profile.counts[binning.slice_of(name)].tolist()


def as_parquet(frame: pd.DataFrame, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), file, **options)
    file.seek(0)
    return file


# ---- the bins of a reference


def test_bins_hold_about_as_many_reference_values_each():
    binning = Binning.of(pd.DataFrame({"x": RANDOM.normal(size=10_000)}), {"x": "number"})
    (one,) = binning.features
    frame = pd.DataFrame({"x": RANDOM.normal(size=0)})
    assert len(one.edges) == 19
    assert list(one.edges) == sorted(set(one.edges))
    assert sum(profile_frame(binning, frame).counts) == 0


def test_the_reference_has_nothing_out_of_range_and_nothing_unseen():
    profile = profile_frame(BINNING, REFERENCE)
    for one in BINNING.features:
        own = cells(profile, one.name)
        assert sum(own) == len(REFERENCE)
        if one.kind == "number":
            assert own[0] == own[-2] == 0
        else:
            assert own[-2] == 0


def test_few_distinct_values_have_a_bin_each():
    frame = pd.DataFrame({"weekday": [0, 0, 1, 2, 3, 3, 3, 6]})
    binning = Binning.of(frame, {"weekday": "number"})
    assert binning.features[0].edges == (0.0, 1.0, 2.0, 3.0)
    assert profile_frame(binning, frame).counts.tolist() == [0, 2, 1, 1, 3, 1, 0, 0]


def test_a_rare_boolean_has_a_bin_of_its_own():
    frame = pd.DataFrame({"yes": [True] * 999 + [False]})
    binning = Binning.of(frame, {"yes": "number"})
    assert profile_frame(binning, frame).counts.tolist() == [0, 1, 999, 0, 0]


def test_a_value_that_most_rows_share_at_the_top_is_parted_from_what_lies_below():
    frame = pd.DataFrame({"visib": [*np.linspace(0, 9.9, 50), *[10.0] * 950]})
    binning = Binning.of(frame, {"visib": "number"})
    assert profile_frame(binning, frame).counts.tolist() == [0, 50, 950, 0, 0]


def test_a_constant_has_one_bin_and_what_differs_is_out_of_range():
    binning = Binning.of(pd.DataFrame({"x": [3, 3, 3]}), {"x": "number"})
    profile = profile_frame(binning, pd.DataFrame({"x": [3.0, 2.9, 3.1, 3.1, np.nan]}))
    assert profile.counts.tolist() == [1, 1, 2, 1]


def test_a_value_of_a_feature_that_was_always_missing_is_out_of_range():
    binning = Binning.of(pd.DataFrame({"x": [None, None], "c": [None, None]}), {"x": "number", "c": "category"})
    profile = profile_frame(binning, pd.DataFrame({"x": [None, 1.0], "c": [None, "a"]}))
    assert profile.counts.tolist() == [0, 0, 1, 1, 1, 1]


def test_infinite_values_are_out_of_range_also_of_the_reference():
    frame = pd.DataFrame({"x": [-np.inf, 1.0, 2.0, np.inf, np.nan]})
    binning = Binning.of(frame, {"x": "number"})
    profile = profile_frame(binning, frame)
    assert (binning.features[0].low, binning.features[0].high) == (1.0, 2.0)
    assert profile.counts.tolist() == [1, 1, 1, 1, 1]
    assert (profile.minimum[0], profile.maximum[0]) == (-np.inf, np.inf)


def test_levels_stand_by_frequency_and_rare_ones_share_a_cell_but_are_no_news():
    names = [f"l{n:03}" for n in range(MAX_CELLS + 50)]
    frame = pd.DataFrame({"c": [name for place, name in enumerate(names) for _ in range(1 + (place < 100))]})
    binning = Binning.of(frame, {"c": "category"})
    (one,) = binning.features
    assert one.levels == tuple(names)
    assert one.singletons == len(names) - 100
    profile = profile_frame(binning, pd.DataFrame({"c": ["l000", names[-1], names[MAX_CELLS], "new", None]}))
    assert one.cells == MAX_CELLS + 3
    assert profile.counts[[0, MAX_CELLS, MAX_CELLS + 1, MAX_CELLS + 2]].tolist() == [1, 2, 1, 1]


def test_levels_without_end_are_cut_off():
    frame = pd.DataFrame({"c": ["usual", "usual", *(f"id-{n}" for n in range(MAX_LEVELS + 10))]})
    (one,) = Binning.of(frame, {"c": "category"}).features
    assert len(one.levels) == MAX_LEVELS
    assert one.levels[0] == "usual"


def test_levels_that_are_no_text_are_refused_in_the_reference():
    with pytest.raises(ProfileError, match=r"c is a category, but holds values that are no text"):
        Binning.of(pd.DataFrame({"c": ["a", 1]}), {"c": "category"})


def test_bins_of_the_same_rows_are_equal():
    assert Binning.of(REFERENCE, KINDS) == BINNING
    assert hash(Binning.of(REFERENCE, KINDS)) == hash(BINNING)
    assert FeatureBins("a", "category") == FeatureBins("a", "category")
    assert FeatureBins("a", "category") != FeatureBins("a", "number")


# ---- what is counted as what


def test_a_value_equal_to_an_edge_lies_below_it():
    binning = Binning((FeatureBins("x", "number", edges=(1.0, 2.0), low=0.0, high=3.0),))
    frame = pd.DataFrame({"x": [-0.1, 0.0, 1.0, 1.1, 2.0, 3.0, 3.1]})
    assert profile_frame(binning, frame).counts.tolist() == [1, 2, 2, 1, 1, 0]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1.0, 2.0, None]),
        pd.Series([1.0, 2.0, None], dtype="float32"),
        pd.Series([1, 2, None], dtype="Int64"),
        pd.Series([1, 2, None], dtype=object),
        pd.Series(["1", "2.0", None], dtype=object),
        pd.Series(["1", "2.0", None], dtype="string"),
        pd.Series([True, 2, np.nan], dtype=object),
        pd.Series([1, 2, None], dtype=pd.ArrowDtype(pa.int16())),
    ],
    ids=lambda column: str(column.dtype),
)
def test_a_number_may_come_in_many_types(column: pd.Series):
    binning = Binning.of(pd.DataFrame({"x": [1, 2]}), {"x": "number"})
    assert profile_frame(binning, column.to_frame("x")).counts.tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0, 2.0, None]),
        pa.array([1.0, 2.0, float("nan")]),
        pa.array([1, 2, None], pa.uint8()),
        pa.array([1.0, 2.0, None], pa.float32()),
        pa.array(["1", "2", None]),
    ],
    ids=lambda column: str(column.type),
)
def test_a_number_may_come_in_many_arrow_types(column: pa.Array):
    binning = Binning.of(pd.DataFrame({"x": [1, 2]}), {"x": "number"})
    assert profile_batches(binning, [pa.record_batch({"x": column})]).counts.tolist() == [0, 1, 1, 0, 1]


def test_booleans_are_numbers_in_arrow_too():
    binning = Binning.of(pd.DataFrame({"x": [True, False]}), {"x": "number"})
    batch = pa.record_batch({"x": pa.array([True, True, None])})
    assert profile_batches(binning, [batch]).counts.tolist() == [0, 0, 2, 0, 1]
    assert profile_batches(binning, [pa.record_batch({"x": pa.nulls(3)})]).counts.tolist() == [0, 0, 0, 0, 3]


def test_text_in_a_number_is_out_of_range_not_missing():
    binning = Binning.of(pd.DataFrame({"x": [1, 2]}), {"x": "number"})
    frame = pd.DataFrame({"x": pd.Series(["1", "broken", None], dtype=object)})
    assert profile_frame(binning, frame).counts.tolist() == [0, 1, 0, 1, 1]
    assert row_cells(binning, frame)[:, 0].tolist() == [1, 3, 4]
    assert profile_parquet(binning, as_parquet(frame)) == profile_frame(binning, frame)


@pytest.mark.parametrize("values", [[1, 2, None], [True, False, None], [1.5, 2.5, None]])
def test_what_is_no_text_is_unseen_in_a_category(values: list[object]):
    binning = Binning.of(pd.DataFrame({"c": ["1", "True"]}), {"c": "category"})
    for frame in (pd.DataFrame({"c": pd.Series(values)}), pd.DataFrame({"c": pd.Series(values, dtype=object)})):
        assert profile_frame(binning, frame).counts.tolist() == [0, 0, 2, 1]
        assert profile_parquet(binning, as_parquet(frame)).counts.tolist() == [0, 0, 2, 1]


def test_pandas_categories_and_arrow_texts_are_texts():
    binning = Binning.of(pd.DataFrame({"c": ["a", "b"]}), {"c": "category"})
    for dtype in ("category", "string", pd.ArrowDtype(pa.string()), object):
        assert profile_frame(
            binning, pd.DataFrame({"c": pd.Series(["a", "new", None], dtype=dtype)})
        ).counts.tolist() == [1, 0, 1, 1]
    for type_ in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        batch = pa.record_batch({"c": pa.array(["a", "new", None], pa.string()).cast(type_)})
        assert profile_batches(binning, [batch]).counts.tolist() == [1, 0, 1, 1], type_


def test_a_null_inside_a_dictionary_is_missing():
    binning = Binning.of(pd.DataFrame({"c": ["a"]}), {"c": "category"})
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["a", None]))
    assert profile_batches(binning, [pa.record_batch({"c": column})]).counts.tolist() == [1, 0, 2]


def test_batches_with_different_dictionaries_are_told_apart():
    binning = Binning.of(pd.DataFrame({"c": ["a", "b"]}), {"c": "category"})
    batches = [
        pa.record_batch({"c": pa.array(values).dictionary_encode()})
        for values in (["b", "a"], ["a", "b"], ["x"], ["b"])
    ]
    assert profile_batches(binning, batches).counts.tolist() == [2, 3, 1, 0]


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ProfileError, match=r"There is no column temp for temp \(there are: gust, wet"):
        profile_frame(BINNING, REFERENCE.drop(columns="temp"))
    with pytest.raises(ProfileError, match="There is no column t for temp"):
        profile_parquet(BINNING, as_parquet(REFERENCE), columns={"temp": "t"})
    with pytest.raises(ProfileError, match="There is no column when for the event time"):
        profile_parquet(BINNING, as_parquet(REFERENCE), times="when")


def test_a_column_of_another_kind_is_refused():
    with pytest.raises(ProfileError, match="column of temp holds datetime64"):
        profile_frame(BINNING, REFERENCE.assign(temp=REFERENCE["at"]))
    with pytest.raises(ProfileError, match="column of temp holds timestamp"):
        profile_parquet(BINNING, as_parquet(REFERENCE.assign(temp=REFERENCE["at"])))
    with pytest.raises(ProfileError, match="column of temp holds double, which is no time"):
        profile_parquet(BINNING, as_parquet(REFERENCE), times="temp")


# ---- times


def test_the_phase_tells_hour_weekday_and_season():
    at = pd.Series([pd.Timestamp("2024-01-01 05:30", tz="UTC")])  # a Monday
    phase = profile_frame(BINNING, rows(1), at).phase
    day, week = 2 * np.pi * 5.5 / 24, 2 * np.pi * 5.5 / 24 / 7
    assert phase[:4] == pytest.approx([np.cos(day), np.sin(day), np.cos(week), np.sin(week)])
    assert phase[4] == pytest.approx(1, abs=1e-3)


def test_a_time_zone_changes_nothing_and_rows_without_a_time_count_nothing():
    at = REFERENCE["at"]
    whole = profile_frame(BINNING, REFERENCE, at)
    assert profile_frame(BINNING, REFERENCE, at.dt.tz_convert("Asia/Tokyo")) == whole
    assert profile_frame(BINNING, REFERENCE, at.dt.tz_localize(None)) == whole
    half = at.where(np.arange(len(at)) < 1500)
    assert profile_frame(BINNING, REFERENCE, half).phase == pytest.approx(
        profile_frame(BINNING, REFERENCE[:1500], at[:1500]).phase
    )
    assert profile_frame(BINNING, REFERENCE).phase.tolist() == [0] * 6


def test_one_row_of_another_age_costs_no_memory():
    at = pd.Series([pd.Timestamp("1900-01-01", tz="UTC"), pd.Timestamp("2100-01-01", tz="UTC")])
    assert np.hypot(*profile_frame(BINNING, rows(2), at).phase[:2]) == pytest.approx(2)


# ---- one profile, whatever way the rows came


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(width=64), st.sampled_from(REFERENCE["temp"].tolist())),
            st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["AA", "ÜX", "日本"])),
            st.one_of(st.none(), st.booleans()),
            st.one_of(st.none(), st.sampled_from(TIMES)),
        ),
        max_size=20,
    ),
    st.data(),
)
def test_frame_batches_parquet_and_groups_agree_and_parts_add_up_in_any_order(made: list[tuple], data: st.DataObject):
    temp, carrier, wet, at = zip(*made, strict=True) if made else ((), (), (), ())
    frame = pd.DataFrame(
        {
            "temp": pd.Series(temp, dtype="float64"),
            "gust": pd.Series(temp, dtype="float64"),
            "wet": pd.Series(wet, dtype="boolean"),
            "carrier": pd.Series(carrier, dtype=object),
            "airport": pd.Series(carrier, dtype=object),
            "at": pd.Series(at, dtype="datetime64[us, UTC]"),
        }
    )
    whole = profile_frame(BINNING, frame, frame["at"])
    assert [sum(cells(whole, name)) for name in KINDS] == [len(frame)] * len(KINDS)

    table = pa.table(
        {
            "temp": pa.array(temp, pa.float64()),
            "gust": pa.array(temp, pa.float64()),
            "wet": pa.array(wet, pa.bool_()),
            "carrier": pa.array(carrier, pa.string()),
            "airport": pa.array(carrier, pa.string()),
            "at": pa.array(at, pa.timestamp("us", "UTC")),
        }
    )
    assert profile_batches(BINNING, table.to_batches(max_chunksize=7), "at") == whole
    file = io.BytesIO()
    parquet.write_table(table, file, row_group_size=11)
    assert profile_parquet(BINNING, file, "at") == whole

    order = data.draw(st.permutations(range(len(frame))))
    shuffled = frame.iloc[order]
    assert profile_frame(BINNING, shuffled, shuffled["at"]) == whole
    cut = data.draw(st.integers(0, len(frame)))
    parts = [profile_frame(BINNING, part, part["at"]) for part in (shuffled[:cut], shuffled[cut:])]
    assert parts[0] + parts[1] == parts[1] + parts[0] == whole
    assert whole + WindowProfile.empty(BINNING) == whole

    groups = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=len(frame), max_size=len(frame))), dtype=np.int64)
    for group, profile in enumerate(profile_groups(BINNING, frame, groups, frame["at"])):
        own = frame[groups == group]
        assert profile == profile_frame(BINNING, own, own["at"])
    counted = np.bincount(row_cells(BINNING, frame).ravel(), minlength=BINNING.cells)
    assert counted.tolist() == whole.counts.tolist()


def test_columns_may_have_other_names_in_the_file():
    renamed = REFERENCE.rename(columns={name: f"feature_{name}" for name in KINDS})
    profile = profile_parquet(BINNING, as_parquet(renamed), "at", {name: f"feature_{name}" for name in KINDS})
    assert profile == profile_frame(BINNING, REFERENCE, REFERENCE["at"])


def test_a_column_whose_name_begins_like_a_features_is_not_counted_for_it():
    # Parquet also takes "temp" for the column temp.mean, as if that were a part of it
    frame = REFERENCE.rename(columns={"at": "temp.mean"})[["temp.mean", *KINDS]]
    assert profile_parquet(BINNING, as_parquet(frame)) == profile_frame(BINNING, REFERENCE)


def test_two_features_may_share_a_column():
    binning = Binning.of(REFERENCE.assign(twin=REFERENCE["temp"]), {"temp": "number", "twin": "number"})
    profile = profile_parquet(binning, as_parquet(REFERENCE), columns={"twin": "temp"})
    assert cells(profile, "temp", binning) == cells(profile, "twin", binning)


def test_long_columns_are_counted_in_blocks_like_short_ones():
    frame = rows(150_000, seed=3)
    whole = profile_frame(BINNING, frame, frame["at"])
    parts = [profile_frame(BINNING, part, part["at"]) for part in (frame[:1], frame[1:70_000], frame[70_000:])]
    assert sum(parts, start=WindowProfile.empty(BINNING)) == whole
    assert profile_parquet(BINNING, as_parquet(frame, row_group_size=40_000), "at") == whole
    assert np.bincount(row_cells(BINNING, frame).ravel(), minlength=BINNING.cells).tolist() == whole.counts.tolist()


def test_an_empty_window_is_the_empty_profile():
    assert profile_frame(BINNING, rows(0)) == WindowProfile.empty(BINNING)
    assert profile_batches(BINNING, []) == WindowProfile.empty(BINNING)
    assert profile_parquet(BINNING, as_parquet(rows(0))) == WindowProfile.empty(BINNING)
    assert profile_groups(BINNING, rows(0), np.empty(0, dtype=np.int64)) == []
    assert profile_groups(BINNING, rows(2), np.array([-1, 1]))[0] == WindowProfile.empty(BINNING)


def test_smallest_and_largest_skip_what_is_missing():
    binning = Binning.of(REFERENCE, {"temp": "number", "carrier": "category"})
    profile = profile_frame(binning, pd.DataFrame({"temp": [np.nan, 3.0, -1.0], "carrier": ["AA", None, None]}))
    assert profile.minimum[0] == -1.0
    assert profile.maximum[0] == 3.0
    assert np.isnan(profile.minimum[1])
    assert np.isnan(profile.maximum[1])


def test_profiles_of_different_bins_do_not_add_up():
    with pytest.raises(ValueError, match="count both with one binning"):
        WindowProfile.empty(BINNING) + WindowProfile.empty(Binning.of(REFERENCE, {"temp": "number"}))
    assert WindowProfile.empty(BINNING) != "profile"
