"""Which logged outcomes are samples of their own."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.trials.samples import blocks, first_of_each_outcome

BEGIN = datetime(2013, 3, 1, tzinfo=UTC)


def first(rows: list[tuple[str | None, int, int]]) -> list[bool]:
    """Of entities, minutes at which they were asked about, and minutes at which the label was known."""
    entity, asked, known = (pd.Series(list(one), dtype=object) for one in zip(*rows, strict=True))
    times = [pd.to_datetime([BEGIN + timedelta(minutes=at) for at in one]).to_series() for one in (asked, known)]
    return first_of_each_outcome(entity, *times).tolist()


def test_an_entity_counts_again_once_its_outcome_was_known():
    rows = [("a", 0, 60), ("b", 1, 61), ("a", 10, 70), ("a", 60, 80), ("a", 61, 90), ("a", 85, 99), (None, 86, 90)]
    assert first(rows) == [True, True, False, False, True, False, True]


def test_a_label_that_was_known_before_counts_for_its_moment():
    assert first([("a", 5, 0), ("a", 5, 0), ("a", 6, 0)]) == [True, False, True]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 50), st.integers(0, 30)), min_size=1))
def test_no_two_rows_that_count_are_about_one_outcome(rows: list[tuple[str | None, int, int]]):
    rows = sorted(((who, at, at + delay) for who, at, delay in rows), key=lambda one: one[1])
    taken = first(rows)
    for who in ("a", "b"):
        mine = [one for one, counts in zip(rows, taken, strict=True) if counts and one[0] == who]
        assert all(later[1] > earlier[2] for earlier, later in pairwise(mine))
        assert bool(mine) == any(one[0] == who for one in rows)
    assert all(counts for one, counts in zip(rows, taken, strict=True) if one[0] is None)


@given(st.integers(0, 6000), st.floats(0, 1), st.integers(0, 9))
def test_blocks_are_consecutive_and_hold_at_least_fifty_of_the_share(rows: int, share: float, seed: int):
    mine = np.random.default_rng(seed).random(rows) < share
    found = blocks(mine)
    assert len(found) == rows
    assert (np.diff(found) >= 0).all()
    assert len(np.unique(found)) <= 32
    counts = np.bincount(found[mine]) if mine.any() else np.array([0])
    assert (counts[:-1] >= 50).all()
