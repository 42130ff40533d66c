"""Counting: the compiled kernels and what is done without them give the same numbers."""

import numpy as np
import pytest

from mlops_assets.core.monitoring import counting
from mlops_assets.core.monitoring.counting import count_codes, count_numbers

# shorter than what a kernel is loaded for, and longer
SIZES = (0, 7, 100_001)


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64])
def test_codes_are_counted_whatever_their_type_and_number(rows: int, kind: type[np.signedinteger]) -> None:
    codes = np.random.default_rng(rows).integers(0, 5, rows).astype(kind)
    counts = count_codes(codes, 6)
    assert counts.dtype == np.int64
    assert counts.tolist() == [int((codes == level).sum()) for level in range(6)]


@pytest.mark.parametrize("rows", SIZES[1:])
@pytest.mark.parametrize("strange", [3, -1])
def test_a_code_without_a_level_is_an_error_and_writes_nowhere(rows: int, strange: int) -> None:
    codes = np.zeros(rows, dtype=np.int32)
    codes[rows // 2] = strange
    with pytest.raises(ValueError, match=r"codes are not from 0 to 2|no negative"):
        count_codes(codes, 3)


@pytest.mark.parametrize("rows", SIZES)
def test_numbers_are_counted_alike_with_and_without_numba(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(rows)
    values = np.round(random.normal(size=rows), 1)
    values[random.random(rows) < 0.1] = np.nan
    thresholds = np.array([-2.0, -0.5, 0.0, 0.1, 0.7, 1.9, 3.0])
    compiled = count_numbers(values, thresholds)
    monkeypatch.setattr(counting, "NUMBA", False)
    plain = count_numbers(values, thresholds)
    there = values[~np.isnan(values)]
    expected = np.bincount(np.searchsorted(thresholds, there), minlength=len(thresholds) + 1)
    assert compiled[0].tolist() == plain[0].tolist() == expected.tolist()
    assert compiled[1:] == plain[1:] == (there.min(initial=np.inf), there.max(initial=-np.inf))
