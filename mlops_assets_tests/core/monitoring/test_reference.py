import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.monitoring.profile import WindowProfile, profile_frame
from mlops_assets.core.monitoring.reference import MAX_BLOCKS, ReferenceProfile, spread
from mlops_assets_tests.core.monitoring.test_profile import KINDS, rows

FRAME = rows(2100).sort_values("at", ignore_index=True)
REFERENCE = ReferenceProfile.of(FRAME, KINDS, FRAME["at"], 200)


def test_blocks_are_the_consecutive_full_ones_and_the_whole_is_all_rows():
    assert len(REFERENCE.blocks) == 10
    for place, block in enumerate(REFERENCE.blocks):
        own = FRAME[200 * place : 200 * place + 200]
        assert block == profile_frame(REFERENCE.binning, own, own["at"])
    assert REFERENCE.whole == profile_frame(REFERENCE.binning, FRAME, FRAME["at"])
    assert REFERENCE.whole.rows == 2100


def test_blocks_by_key_follow_the_order_of_the_rows():
    keys = (
        FRAME["at"]
        .dt.strftime("%Y-%m-%d")
        .where(FRAME["at"] >= FRAME["at"].min().normalize() + pd.Timedelta(days=1), None)
    )
    reference = ReferenceProfile.of(FRAME, KINDS, FRAME["at"], keys.to_numpy(dtype=object))
    days = [day for day in dict.fromkeys(keys) if day is not None]
    assert [block.rows for block in reference.blocks] == [int((keys == day).sum()) for day in days]
    assert sum(block.rows for block in reference.blocks) < len(FRAME)


def test_of_very_many_blocks_runs_spread_over_all_are_kept():
    reference = ReferenceProfile.of(FRAME, KINDS, None, 4)
    assert len(reference.blocks) == MAX_BLOCKS
    assert reference.blocks[-1] == profile_frame(reference.binning, FRAME[2096:])
    assert reference.blocks[0] == profile_frame(reference.binning, FRAME[:4])
    assert len(ReferenceProfile.of(FRAME, KINDS, None, 4, max_blocks=1000).blocks) == 525


@given(st.integers(0, 3000), st.integers(0, 500))
def test_blocks_are_thinned_evenly_and_in_runs(blocks: int, most: int):
    places = spread(blocks, most)
    kept = np.flatnonzero(places >= 0)
    assert len(kept) == min(blocks, most)
    assert places[kept].tolist() == list(range(len(kept)))
    if most >= 16 and blocks > 2 * most:
        runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)
        assert kept[0] == 0
        assert kept[-1] == blocks - 1
        assert min(len(run) for run in runs) >= 8
        assert np.diff(kept).max() <= blocks / (most // 8 - 1)


def test_fewer_rows_than_a_block_leave_the_whole():
    reference = ReferenceProfile.of(FRAME, KINDS, None, 5000)
    assert reference.blocks == ()
    assert ReferenceProfile.from_bytes(reference.to_bytes()) == reference


def test_blocks_merge_from_the_newest_back():
    merged = REFERENCE.merged(4)
    assert [one.rows for one in merged] == [800, 800]
    assert merged[-1] == sum(REFERENCE.blocks[6:], start=WindowProfile.empty(REFERENCE.binning))
    assert merged[0] == sum(REFERENCE.blocks[2:6], start=WindowProfile.empty(REFERENCE.binning))
    assert REFERENCE.merged(1) == REFERENCE.blocks
    assert REFERENCE.merged(11) == ()
    with pytest.raises(ValueError, match="by one or more"):
        REFERENCE.merged(0)


def test_the_mean_of_a_number_is_known_as_far_as_its_bins_tell():
    frame = pd.DataFrame({"x": np.random.default_rng(1).normal(50, 15, 20_000), "empty": np.nan})
    frame.loc[::10, "x"] = np.nan
    reference = ReferenceProfile.of(frame, {"x": "number", "empty": "number"}, None, 100)
    assert reference.mean_of("x") == pytest.approx(frame["x"].mean(), rel=0.01)
    assert np.isnan(reference.mean_of("empty"))


def test_importance_is_made_into_shares():
    assert REFERENCE.importance == dict.fromkeys(KINDS, pytest.approx(0.2))
    some = ReferenceProfile.of(FRAME, KINDS, None, 200, {"temp": 3, "carrier": 1, "wet": -0.1, "other": 9})
    assert some.importance == {"temp": 0.75, "gust": 0, "wet": 0, "carrier": 0.25, "airport": 0}


def test_blocks_that_fit_no_rows_are_refused():
    with pytest.raises(ValueError, match="one row or more"):
        ReferenceProfile.of(FRAME, KINDS, None, 0)
    with pytest.raises(ValueError, match="2100 reference rows, but block keys of shape"):
        ReferenceProfile.of(FRAME, KINDS, None, ["a", "b"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.integers(1, 20), st.integers(0, 10))
def test_bytes_hold_all_and_equal_content_gives_equal_bytes(count: int, block: int, seed: int):
    frame = rows(count, seed)
    reference = ReferenceProfile.of(frame, KINDS, frame["at"], block)
    data = reference.to_bytes()
    again = ReferenceProfile.from_bytes(data)
    assert again == reference
    assert again.to_bytes() == data
    assert ReferenceProfile.of(frame.copy(), KINDS, frame["at"], block).to_bytes() == data
    own = rows(20, seed + 1)
    assert profile_frame(again.binning, own) == profile_frame(reference.binning, own)


def test_a_feature_takes_a_few_kilobytes():
    frame = rows(100_000)
    data = ReferenceProfile.of(frame, KINDS, frame["at"], 500).to_bytes()
    assert len(data) / len(KINDS) < 10_000


def test_bytes_of_something_else_are_refused():
    other = io.BytesIO()
    np.savez(other, counts=np.zeros(3))
    pickled = io.BytesIO()
    np.savez(pickled, text=np.array([object()], dtype=object))
    for data in (b"", b"no archive", other.getvalue(), pickled.getvalue(), REFERENCE.to_bytes()[:-100]):
        with pytest.raises(ValueError, match=r"no reference profile .*train the model again"):
            ReferenceProfile.from_bytes(data)
