"""Filling from donors: both engines give the same bits, and what scikit-learn gives where it is defined without doubt."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import KNNImputer

from mlops_assets.core.neighbours import Donors, fill_from_donors


def holed(generator: np.random.Generator, rows: int, columns: int, share: float, grid: bool) -> np.ndarray:
    values = generator.integers(0, 3, (rows, columns)) * 1.0 if grid else generator.normal(size=(rows, columns))
    return np.where(generator.random(values.shape) < share, np.nan, values)


@given(
    seed=st.integers(0, 10**6),
    donors=st.integers(1, 40),
    neighbours=st.integers(1, 8),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    grid=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_both_engines_give_the_same_bits(seed: int, donors: int, neighbours: int, share: float, grid: bool) -> None:
    generator = np.random.default_rng(seed)
    given_donors = Donors.of(holed(generator, donors, 4, share, grid), generator.uniform(0.5, 2.0, 4), neighbours)
    rows = holed(generator, 20, 4, 0.5, grid)
    columns = np.array([0, 2, 3])
    compiled = fill_from_donors(rows, columns, given_donors, numba=True)
    assert np.array_equal(compiled, fill_from_donors(rows, columns, given_donors, numba=False), equal_nan=True)
    singly = np.vstack([fill_from_donors(rows[at : at + 1], columns, given_donors) for at in range(len(rows))])
    assert np.array_equal(compiled, singly, equal_nan=True)
    assert not np.isnan(compiled[:, columns]).any()
    assert np.array_equal(compiled[:, 1], rows[:, 1], equal_nan=True)


@given(seed=st.integers(0, 10**6), neighbours=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_without_ties_it_is_scikit_learns_imputer(seed: int, neighbours: int) -> None:
    generator = np.random.default_rng(seed)
    values, scales = holed(generator, 40, 4, 0.2, grid=False), generator.uniform(0.5, 2.0, 4)
    rows = holed(generator, 20, 4, 0.4, grid=False)
    expected = (
        KNNImputer(n_neighbors=neighbours, keep_empty_features=True).fit(values / scales).transform(rows / scales)
    )
    filled = fill_from_donors(rows, np.arange(4), Donors.of(values, scales, neighbours))
    assert np.allclose(filled, expected * scales, rtol=1e-9, atol=1e-9)


def test_of_equally_near_donors_the_earlier_are_taken() -> None:
    values = np.array([[1.0, 10.0], [1.0, 20.0], [1.0, 30.0]])
    filled = fill_from_donors(np.array([[1.0, np.nan]]), np.array([1]), Donors.of(values, np.ones(2), 2))
    assert filled[0, 1] == 15.0
