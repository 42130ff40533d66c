from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.impute import KNNImputer

from mlops_assets.core.imputation import PlanImputer, decode_plan, encode_plan, make_plan, missing_rates
from mlops_assets.core.manifest import ImputationPlan
from mlops_assets.core.spec import ModelSpec
from mlops_assets_tests.core.examples import declaration, make_frame, make_spec, numbers_spec

SPEC = make_spec()


def fill(spec: ModelSpec, plan: ImputationPlan, frame: pd.DataFrame) -> pd.DataFrame:
    return PlanImputer.from_plan(plan, spec).fit_transform(frame)


def holes(values: list[Any], missing: int) -> list[Any]:
    return [None] * missing + values


def spec_with(feature: str, **changes: Any) -> ModelSpec:
    whole = declaration()
    for one in whole["features"]:
        if one["name"] == feature:
            one.update(changes)
    return ModelSpec.model_validate(whole)


def test_missing_rates_are_shares_of_the_rows() -> None:
    frame = pd.DataFrame({"a": [1.0, np.nan, np.nan, 4.0], "b": ["x", None, "y", ""]})
    assert missing_rates(frame, ("a", "b")) == {"a": 0.5, "b": 0.25}


def test_each_strategy_fills_with_its_value() -> None:
    rows = pd.DataFrame({"x": [1.0, 2.0, 6.0, None, 7.0], "c": ["b", "a", "b", "a", None]})
    features = [{"name": "x", "type": "number"}, {"name": "c", "type": "category"}]

    def values(**rules: Any) -> tuple[Any, Any]:
        plan = make_plan(make_spec(features=features, imputation=rules), rows)
        return plan["x"].value, plan["c"].value

    assert values() == (4.0, "missing")
    assert values(number="mean", category="most_frequent") == (4.0, "a")
    rows.loc[4, "x"] = 99.0
    assert values(number="mean") == (27.0, "missing")
    assert values(number="median") == (4.0, "missing")


def test_above_the_limit_the_alarm_is_raised_and_the_other_strategy_applies() -> None:
    quiet, loud = make_frame(10, temp=holes([1.0] * 7, 3)), make_frame(10, temp=holes([1.0] * 6, 4))
    assert (make_plan(SPEC, quiet)["temp"].strategy, make_plan(SPEC, quiet).alarms) == ("median", ())
    plan = make_plan(SPEC, loud)
    assert (plan["temp"].strategy, plan["temp"].missing_rate, plan.alarms) == ("knn", 0.4, ("temp",))
    assert make_plan(spec_with("temp", impute="mean"), loud)["temp"].strategy == "mean"
    rules = {"category_above_alarm": "most_frequent"}
    carriers = make_frame(10, carrier=holes(["UA"] * 6, 4))
    assert make_plan(make_spec(imputation=rules), carriers)["carrier"].value == "UA"


@pytest.mark.parametrize(("missing", "strategy"), [(18, "knn"), (19, "knn"), (20, "dropped")])
def test_a_nearly_empty_feature_is_dropped(missing: int, strategy: str) -> None:
    plan = make_plan(SPEC, make_frame(20, temp=holes([1.0] * (20 - missing), missing)))
    assert plan["temp"].strategy == strategy
    assert ("temp" in plan.kept) == (strategy == "knn")


def test_an_empty_feature_is_dropped_even_where_nothing_else_is() -> None:
    spec = make_spec(imputation={"drop_above": 1.0})
    plan = make_plan(spec, make_frame(20, temp=None, carrier=None))
    assert set(plan.dropped) == {"temp", "carrier"}
    assert not set(fill(spec, plan, make_frame(5))) & {"temp", "carrier"}


def test_without_rows_or_features_there_is_no_plan() -> None:
    with pytest.raises(ValueError, match="'delay': no training rows"):
        make_plan(SPEC, make_frame(3).iloc[:0])
    empty = make_frame(3, **dict.fromkeys(SPEC.feature_names))
    with pytest.raises(ValueError, match="every feature is missing in more than 95% of 3 training rows"):
        make_plan(SPEC, empty)


def test_numbers_come_first_in_the_order_of_the_plan() -> None:
    plan = make_plan(SPEC, make_frame())
    imputer = PlanImputer.from_plan(plan, SPEC)
    filled = imputer.fit_transform(make_frame(8, extra=1).iloc[::-1])
    assert list(filled) == ["temp", "seats", "night", "carrier", "origin"] == list(imputer.get_feature_names_out())
    assert filled.index.tolist() == list(range(8))[::-1]
    assert clone(imputer).plan_json == imputer.plan_json


def knn_spec(*names: str, **rules: Any) -> ModelSpec:
    return numbers_spec(*names, imputation={"number": "knn", "number_above_alarm": "knn", **rules})


def test_neighbours_are_those_of_scikit_learn_on_scaled_values() -> None:
    random = np.random.default_rng(5)
    values = random.normal(size=(80, 3)) * [1.0, 100.0, 0.01]
    values[random.random(values.shape) < 0.2] = np.nan
    rows = pd.DataFrame(values, columns=["a", "b", "c"])
    spec = knn_spec("a", "b", "c", neighbours=4)
    scales = np.nanstd(values, axis=0)
    expected = KNNImputer(n_neighbors=4).fit(values / scales).transform(values / scales) * scales
    np.testing.assert_allclose(fill(spec, make_plan(spec, rows), rows), expected, rtol=1e-9)


@pytest.mark.parametrize("constant", [0.1, 0.7, 1e16, 0.0])
def test_a_constant_column_does_not_drown_the_others(constant: float) -> None:
    """The deviation of a thousand times 0.7 is 1e-13 and not 0; one other value then outweighed all other columns."""
    rows = pd.DataFrame({"a": np.arange(1000.0), "b": np.arange(1000.0) * 2, "c": constant})
    spec = knn_spec("a", "b", "c", neighbours=1)
    plan = make_plan(spec, rows)
    assert plan.donor_scales[2] == 1.0
    filled = fill(spec, plan, pd.DataFrame({"a": [500.0], "b": [np.nan], "c": [constant + 1]}))
    assert filled["b"].tolist() == [1000.0]


def test_huge_values_leave_finite_scales() -> None:
    rows = pd.DataFrame({"a": [1e300, -1e300, 1.0, np.nan], "b": [1.0, 2.0, 3.0, 4.0]})
    spec = knn_spec("a", "b", neighbours=2)
    plan = make_plan(spec, rows)
    assert decode_plan(encode_plan(plan)) == plan
    assert not fill(spec, plan, rows).isna().any(axis=None)


def test_fewer_donors_than_neighbours_are_all_averaged() -> None:
    rows = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [10.0, 20.0, None]})
    spec = knn_spec("a", "b", neighbours=5)
    assert fill(spec, make_plan(spec, rows), rows)["b"].tolist() == [10.0, 20.0, 15.0]


def test_donors_are_rows_that_have_something_to_give() -> None:
    """Donors were once drawn from all rows: of a rare feature none might be among them, and holes were filled with 0."""
    rows = pd.DataFrame({"a": np.arange(5000.0), "b": [7.0] * 3 + [np.nan] * 4997})
    spec = numbers_spec("a", "b", imputation={"drop_above": 1.0, "max_donors": 10})
    plan = make_plan(spec, rows)
    assert plan.donors == ((0.0, 7.0), (1.0, 7.0), (2.0, 7.0))
    assert fill(spec, plan, rows)["b"].eq(7.0).all()


def test_donors_are_at_most_as_many_as_declared_and_the_same_for_one_seed() -> None:
    rows = make_frame(300, temp=holes([float(n) for n in range(150)], 150))
    spec = make_spec(imputation={"max_donors": 20})
    assert len(make_plan(spec, rows).donors) == 20
    assert make_plan(spec, rows) == make_plan(spec, rows)
    training = {"estimator": "sklearn.linear_model.LogisticRegression", "holdout": "1d", "seed": 1}
    assert make_plan(make_spec(imputation={"max_donors": 20}, training=training), rows) != make_plan(spec, rows)


NUMBER = st.none() | st.floats(-1e6, 1e6)
LEVEL = st.none() | st.sampled_from(["AA", "UA", "", "nan"])


@st.composite
def tables(draw: st.DrawFn, most: int = 12) -> pd.DataFrame:
    rows = draw(st.integers(1, most))
    columns: dict[str, Any] = {
        name: pd.Series(draw(st.lists(NUMBER, min_size=rows, max_size=rows)), dtype=float) for name in ("x", "y", "z")
    }
    columns["c"] = pd.Series(draw(st.lists(LEVEL, min_size=rows, max_size=rows)), dtype=object)
    return pd.DataFrame(columns)


@st.composite
def mixed_specs(draw: st.DrawFn) -> ModelSpec:
    features = [{"name": name, "type": "number"} for name in ("x", "y", "z")] + [{"name": "c", "type": "category"}]
    numbers, levels = st.sampled_from(["mean", "median", "knn"]), st.sampled_from(["most_frequent", "missing_category"])
    rules = {
        "number": draw(numbers),
        "number_above_alarm": draw(numbers),
        "category": draw(levels),
        "category_above_alarm": draw(levels),
        "neighbours": draw(st.integers(1, 4)),
        "max_donors": draw(st.integers(1, 6)),
    }
    return make_spec(features=features, imputation=rules)


@given(mixed_specs(), tables(), tables())
@settings(max_examples=80, deadline=None)
def test_no_hole_is_left_and_what_is_there_stays(spec: ModelSpec, training: pd.DataFrame, fresh: pd.DataFrame) -> None:
    if training.isna().all(axis=None):
        return
    plan = make_plan(spec, training)
    filled = fill(spec, plan, fresh)
    assert sorted(filled) == sorted(plan.kept)
    assert not filled.isna().any(axis=None)
    for name in plan.kept:
        present = fresh[name].notna()
        assert filled.loc[present, name].tolist() == fresh.loc[present, name].tolist()
        known = training[name].dropna()
        if name != "c":  # whatever the strategy, a number is filled from within what training has seen
            margin = 1e-9 * (1 + known.abs().max())
            assert filled.loc[~present, name].between(known.min() - margin, known.max() + margin).all()
    again = decode_plan(encode_plan(plan))
    assert again == plan
    pd.testing.assert_frame_equal(fill(spec, again, fresh), filled, check_exact=True)


@given(mixed_specs(), tables(), tables())
@settings(max_examples=30, deadline=None)
def test_a_row_is_filled_alone_as_among_others(spec: ModelSpec, training: pd.DataFrame, fresh: pd.DataFrame) -> None:
    if training.isna().all(axis=None):
        return
    plan = make_plan(spec, training)
    singly = pd.concat([fill(spec, plan, fresh.iloc[[row]]) for row in range(len(fresh))])
    pd.testing.assert_frame_equal(fill(spec, plan, fresh), singly, check_exact=True)


def test_with_fewer_donors_than_features_none_is_left_without_a_value() -> None:
    """A lone donor that lacked a feature once filled it with 0."""
    spec = numbers_spec("a", "b", imputation={"number": "knn", "number_above_alarm": "knn", "max_donors": 1})
    training = pd.DataFrame({"a": [5.0, np.nan], "b": [np.nan, 7.0]})
    plan = make_plan(spec, training)
    assert len(plan.donors) == 1
    assert sorted(plan[name].strategy for name in ("a", "b")) == ["knn", "mean"]
    filled = fill(spec, plan, pd.DataFrame({"a": [np.nan], "b": [np.nan]}))
    assert filled.iloc[0].to_dict() == {"a": 5.0, "b": 7.0}
