from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.history import AS_OF
from mlops_assets.core.imputation import make_plan
from mlops_assets.core.schema import validate
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import (
    build_pipeline,
    encode_label,
    find_classes,
    fit_pipeline,
    predict,
    split_training_rows,
    training_as_of,
)
from mlops_assets_tests.core.examples import START, declaration, make_frame, make_spec, numbers_spec

FOREST = "sklearn.ensemble.RandomForestClassifier"
BOOSTED = "sklearn.ensemble.HistGradientBoostingClassifier"
HOUR = timedelta(hours=1)


def training(**changes: Any) -> dict[str, Any]:
    return {**declaration()["training"], **changes}


def valid(frame: pd.DataFrame, spec: ModelSpec | None = None) -> pd.DataFrame:
    return validate(spec or make_spec(), frame).valid


def test_as_of_is_carried_by_the_frame() -> None:
    frame = pd.DataFrame()
    frame.attrs = {AS_OF: START.isoformat()}
    assert training_as_of(frame) == START


def test_the_last_part_of_the_window_is_held_out() -> None:
    """An event at the cut is held out, and one at `as_of` is not known yet."""
    rows = split_training_rows(make_spec(), valid(make_frame(61)), START + 60 * HOUR)
    assert (len(rows.fit), len(rows.holdout), len(rows.whole)) == (36, 24, 60)
    assert rows.holdout["at"].min() == rows.split == START + 36 * HOUR
    assert (rows.start, rows.end) == (START, START + 60 * HOUR)


def test_rows_without_label_take_no_part_and_others_are_put_in_order() -> None:
    frame = make_frame(48)
    frame.loc[[0, 47], "late"] = None
    rows = split_training_rows(make_spec(), valid(frame.iloc[::-1]), START + 48 * HOUR)
    assert rows.whole["at"].is_monotonic_increasing
    assert (len(rows.whole), rows.start) == (46, START + HOUR)


def test_a_rolling_window_moves_with_as_of_and_a_start_holds() -> None:
    frame = valid(make_frame(100))
    rolling = split_training_rows(make_spec(training=training(window="2d")), frame, START + 72 * HOUR)
    assert (rolling.start, len(rolling.fit), len(rolling.holdout)) == (START + 24 * HOUR, 24, 24)
    later = training(window="2d", start=(START + 30 * HOUR).isoformat())
    started = split_training_rows(make_spec(training=later), frame, START + 72 * HOUR)
    assert (started.start, len(started.fit)) == (START + 30 * HOUR, 18)


@pytest.mark.parametrize(
    ("as_of", "frame", "part"),
    [
        (START + 24 * HOUR, make_frame(60), "training"),
        (START + 90 * HOUR, make_frame(60), "held-out"),
        (START + 60 * HOUR, make_frame(60, late=None), "training"),
        (START - HOUR, make_frame(60), "training"),
        (START, make_frame(60).iloc[:0], "training"),
    ],
)
def test_an_empty_part_says_which_and_what_to_change(as_of: datetime, frame: pd.DataFrame, part: str) -> None:
    with pytest.raises(ValueError, match=f"model 'delay': no labelled {part} row before .* choose another as_of"):
        split_training_rows(make_spec(), valid(frame), as_of)


@given(st.integers(0, 100), st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_nothing_held_out_is_earlier_than_what_is_fitted(hours: int, holdout: int) -> None:
    spec = make_spec(training=training(holdout=f"{holdout}h"))
    try:
        rows = split_training_rows(spec, FRAME, START + hours * HOUR)
    except ValueError:
        assert hours <= holdout or hours > 80 + holdout - 1
        return
    assert rows.fit["at"].max() < rows.split <= rows.holdout["at"].min()
    assert rows.holdout["at"].max() < rows.end


FRAME = valid(make_frame(80))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1, 0, None, 1], (0, 1)),
        ([True, False], (0, 1)),
        ([np.bool_(True), np.float64(0), 1.0], (0, 1)),
        (["yes", "no"], ("no", "yes")),
        ([10, 9], (9, 10)),
        ([-1, 1], (-1, 1)),
        (["b", 3], (3, "b")),
    ],
)
def test_classes_are_found_in_order(labels: list[Any], classes: tuple[Any, ...]) -> None:
    """Whole numbers were once sorted as text, so that of 9 and 10 the former was the positive class."""
    found = find_classes(make_spec(), pd.Series(labels, dtype=object))
    assert found == classes
    assert [type(value) for value in found] == [type(value) for value in classes]


def test_declared_classes_keep_their_order_and_refuse_others() -> None:
    spec = make_spec(label={"column": "late", "delay": "1h", "classes": ["yes", "no"]})
    assert find_classes(spec, pd.Series(["no", "yes"])) == ("yes", "no")
    with pytest.raises(
        ValueError, match=r"holds \['maybe'\], which are not among the declared classes \['yes', 'no'\]"
    ):
        find_classes(spec, pd.Series(["no", "maybe"]))


@pytest.mark.parametrize(
    ("task", "labels"), [("binary", [1, 1]), ("binary", [0, 1, 2]), ("multiclass", ["a"]), ("binary", [])]
)
def test_too_few_or_too_many_classes_are_refused(task: str, labels: list[Any]) -> None:
    with pytest.raises(ValueError, match=f"{task} label 'late' has {len(set(labels))} values in training"):
        find_classes(make_spec(task=task), pd.Series(labels, dtype=object))


def test_labels_become_codes_or_stay_values() -> None:
    assert encode_label(make_spec(), pd.Series([True, 0, 1.0], dtype=object), (0, 1)).tolist() == [1.0, 0.0, 1.0]
    regression = numbers_spec("x")
    assert find_classes(regression, pd.Series([1.5])) == ()
    assert encode_label(regression, pd.Series([1.5, 2]), ()).tolist() == [1.5, 2.0]


def fit(spec: ModelSpec, frame: pd.DataFrame) -> Any:
    rows = valid(frame, spec)
    return fit_pipeline(spec, rows, make_plan(spec, rows), find_classes(spec, rows[spec.label.column]))


def test_a_pipeline_answers_raw_rows_with_holes_and_unseen_levels() -> None:
    pipeline = fit(make_spec(training=training(parameters={"max_iter": 1000})), make_frame(80))
    rows = valid(make_frame(3, carrier=["ZZ", None, "AA"], temp=None))
    answers = predict(pipeline, rows)
    assert answers.shape == (3, 2)
    np.testing.assert_allclose(answers.sum(axis=1), 1.0)
    assert list(pipeline.named_steps) == ["impute", "encode", "model"]


def test_a_regression_answers_one_column() -> None:
    frame = pd.DataFrame({"flight": list("abcd"), "at": make_frame(4)["at"], "x": [1.0, 2, 3, 4], "y": [3.0, 5, 7, 9]})
    assert predict(fit(numbers_spec("x"), frame), pd.DataFrame({"x": [10.0]})) == pytest.approx(np.array([[21.0]]))


def test_two_fits_of_the_same_rows_answer_the_same_bytes() -> None:
    spec = make_spec(training=training(estimator=FOREST, parameters={"n_estimators": 5}))
    frame = make_frame(80)
    features = valid(frame)[list(spec.feature_names)]
    assert predict(fit(spec, frame), features).tobytes() == predict(fit(spec, frame), features).tobytes()
    assert build_pipeline(spec, make_plan(spec, valid(frame)))["model"].random_state == 0


def test_a_declared_random_state_is_kept() -> None:
    spec = make_spec(training=training(estimator=FOREST, parameters={"random_state": 9}, seed=3))
    assert build_pipeline(spec, make_plan(spec, valid(make_frame())))["model"].random_state == 9


def test_a_class_that_is_absent_from_the_fitted_rows_is_refused() -> None:
    """The columns of the answers were once those of other classes."""
    spec = make_spec(task="multiclass", training=training(estimator=FOREST, parameters={"n_estimators": 2}))
    rows = valid(make_frame(6, late=["a", "c", "a", "c", "a", "c"]), spec)
    with pytest.raises(ValueError, match="model 'delay': none of the 6 rows to fit on is of class 'b'; widen"):
        fit_pipeline(spec, rows, make_plan(spec, rows), ("a", "b", "c"))


def test_dropped_features_reach_no_encoder() -> None:
    spec = make_spec()
    rows = valid(make_frame(40, temp=None, carrier=None))
    pipeline = fit_pipeline(spec, rows, make_plan(spec, rows), (0, 1))
    assert list(pipeline["encode"].get_feature_names_out()) == ["seats", "night", "origin_EWR", "origin_JFK"]


def test_native_categories_are_the_categories() -> None:
    native = training(estimator=BOOSTED, parameters={"max_iter": 2}, native_categories=True)
    pipeline = fit(make_spec(training=native), make_frame(80))
    assert pipeline["model"].is_categorical_.tolist() == [False, False, False, True, True]


@pytest.mark.parametrize(
    "step",
    [
        {"number_transformer": {"estimator": "sklearn.preprocessing.PolynomialFeatures"}},
        {
            "category_encoder": {
                "estimator": "sklearn.preprocessing.OneHotEncoder",
                "parameters": {"sparse_output": False},
            }
        },
    ],
)
def test_native_categories_refuse_encoders_that_shift_the_columns(step: dict[str, Any]) -> None:
    """Numbers were once taken for categories when a transformer before them made more columns."""
    native = training(estimator=BOOSTED, parameters={"max_iter": 2}, native_categories=True, **step)
    with pytest.raises(ValueError, match="native_categories needs one column per feature"):
        fit(make_spec(training=native), make_frame(80))


def test_no_estimator_and_no_encoder_holds_out_rows_at_random() -> None:
    """HistGradientBoosting stops early by itself above 10,000 rows, and a target encoder shuffles its folds."""
    spec = make_spec(
        training=training(estimator=BOOSTED, category_encoder={"estimator": "sklearn.preprocessing.TargetEncoder"})
    )
    pipeline = build_pipeline(spec, make_plan(spec, valid(make_frame())))
    assert pipeline.named_steps["model"].early_stopping is False
    encoder = next(step for name, step, _ in pipeline.named_steps["encode"].transformers if name == "categories")
    assert encoder.shuffle is False
