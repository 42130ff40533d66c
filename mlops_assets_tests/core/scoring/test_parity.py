"""Parity finds what is wrong; hard rows hold what is hard."""

import numpy as np
import pytest

from mlops_assets.core.scoring.compile import compile_pipeline
from mlops_assets.core.scoring.parity import check_parity, hard_rows
from mlops_assets.core.scoring.scorer import CompiledScorer, differences
from mlops_assets.core.scoring.scorer_files import make_parts
from mlops_assets_tests.core.tables import fit, make_spec, make_table

SPEC = make_spec("binary", "sklearn.ensemble.HistGradientBoostingClassifier", training={"parameters": {"max_iter": 5}})
PIPELINE, CONTRACT = fit(SPEC, make_table(300))
SCORER = compile_pipeline(PIPELINE, CONTRACT)
HARD = hard_rows(CONTRACT, PIPELINE)


def altered(**arrays: np.ndarray) -> CompiledScorer:
    parts = SCORER.parts
    kept = {**parts.arrays._asdict(), "donors": parts.donors, "donor_scales": parts.donor_scales}
    return CompiledScorer(make_parts(parts.layout, {**kept, **arrays}))


def test_an_exact_scorer_passes() -> None:
    report = check_parity(PIPELINE, SCORER, make_table(100, seed=9), HARD.head(300))
    assert report.passed
    assert (report.rows, report.hard_rows) == (100, 300)
    assert report.max_abs_difference <= report.tolerance


def test_a_threshold_one_ulp_off_is_found() -> None:
    """Ordinary rows do not find it."""
    nodes = SCORER.parts.arrays.nodes.copy()
    first = SCORER.parts.layout.numbers.index("distance")
    nodes["threshold"][(nodes["left"] != 0) & (nodes["feature"] == first)] *= 1 - 2e-16
    report = check_parity(PIPELINE, altered(nodes=nodes), make_table(100, seed=9), HARD)
    assert not report.passed
    assert "hard rows differ" in str(report)


def test_a_row_that_only_one_side_refuses_is_a_mismatch() -> None:
    tables = SCORER.parts.arrays.tables.copy()
    leaves = SCORER.parts.arrays.leaves.copy()
    assert check_parity(PIPELINE, altered(tables=tables, leaves=leaves), HARD.head(5), HARD.head(5)).passed
    infinite = HARD.head(5).assign(distance=[np.inf, 1.0, 2.0, 3.0, 4.0])
    assert check_parity(PIPELINE, SCORER, HARD.head(5), infinite).mismatches == 1


def test_hard_rows_hold_what_is_hard_and_are_the_same_each_time() -> None:
    assert HARD.equals(hard_rows(CONTRACT, PIPELINE))
    assert list(HARD) == [feature.name for feature in CONTRACT]
    assert HARD.isna().all(axis=1).any()
    for feature in CONTRACT:
        values = HARD[feature.name]
        assert values.isna().any()
        if feature.levels:
            assert {*feature.levels, "", "never seen"} <= set(values)
        else:
            assert {0.0, 1e308, -1e308, 5e-324} <= set(values)
            assert np.signbit(values[values == 0.0]).any()


@pytest.mark.parametrize("scaler", [None, "StandardScaler"])
def test_hard_rows_stand_on_both_sides_of_a_threshold(scaler: str | None) -> None:
    number = {} if scaler is None else {"number_transformer": {"estimator": f"sklearn.preprocessing.{scaler}"}}
    training = {"parameters": {"max_depth": 1}, **number}
    spec = make_spec("regression", "sklearn.tree.DecisionTreeRegressor", training=training)
    pipeline, contract = fit(spec, make_table(300, task="regression"))
    parts = compile_pipeline(pipeline, contract).parts
    root = parts.arrays.nodes[0]
    offset, divisor = parts.arrays.affine[root["feature"], :2]
    values = hard_rows(contract, pipeline)[parts.layout.numbers[root["feature"]]]
    close = (values - offset) / divisor - root["threshold"]
    assert ((close > 0) & (close < 1e-6)).any()
    assert ((close <= 0) & (close > -1e-6)).any()


def test_differences_are_relative_above_one_and_heed_nan_and_infinity() -> None:
    nan, inf = np.nan, np.inf
    found = differences(np.array([1e6 + 1e-7, 0.5, nan, nan, inf, inf]), np.array([1e6, 0.25, nan, 1.0, inf, -inf]))
    assert found.tolist() == pytest.approx([1e-13, 0.25, 0.0, inf, 0.0, inf], rel=1e-3)
