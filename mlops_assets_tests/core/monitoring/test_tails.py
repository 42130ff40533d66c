"""The same numbers as `scipy.stats`, near the middle, far out and at the ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops_assets.core.monitoring.tails import (
    beta_quantile,
    binomial_at_least,
    chi2_above,
    negative_binomial_at_least,
    normal_above,
    student_above,
    student_quantile_above,
)

Z = np.concatenate([np.linspace(-12, 12, 97), [0.0, 30.0]])


def same(value: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(value), np.asarray(expected), rtol=1e-9, atol=1e-300)


def test_normal() -> None:
    same(normal_above(Z), stats.norm.sf(Z))


@pytest.mark.parametrize("freedom", [1.0, 2.5, 7.0, 60.0, 399.0])
def test_student_and_chi2(freedom: float) -> None:
    same(student_above(Z, freedom), stats.t.sf(Z, freedom))
    chances = np.array([1e-9, 0.001, 0.2, 0.5, 0.9])
    same(student_quantile_above(chances, freedom), stats.t.isf(chances, freedom))
    same(chi2_above(Z[Z >= 0], freedom), stats.chi2.sf(Z[Z >= 0], freedom))


@given(of=st.integers(0, 5_000), part=st.floats(0, 1), share=st.floats(1e-6, 1.0))
def test_binomial(of: int, part: float, share: float) -> None:
    count, total = np.array([0.0, float(round(part * of)), float(of)]), np.full(3, float(of))
    same(binomial_at_least(count, total, share), stats.binom.sf(count - 1, of, share))


@given(count=st.integers(0, 3_000), size=st.floats(0.5, 500), share=st.floats(0.01, 0.999))
def test_negative_binomial(count: int, size: float, share: float) -> None:
    same(negative_binomial_at_least(np.array([count]), size, share), stats.nbinom.sf(count - 1, size, share))


@given(seen=st.floats(0, 1e5), rest=st.floats(0, 1e6))
def test_beta(seen: float, rest: float) -> None:
    same(beta_quantile(0.99, seen + 0.5, rest + 0.5), stats.beta.ppf(0.99, seen + 0.5, rest + 0.5))
