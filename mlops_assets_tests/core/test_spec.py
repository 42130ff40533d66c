from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from mlops_assets.core.spec import Duration, ModelSpec, format_duration, import_object
from mlops_assets_tests.core.examples import declaration, make_spec

DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)
LOGISTIC = "sklearn.linear_model.LogisticRegression"
BOOSTED = "sklearn.ensemble.HistGradientBoostingClassifier"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("14d", timedelta(days=14)),
        ("36h", timedelta(hours=36)),
        (" 1.5 h ", timedelta(minutes=90)),
        ("2w", timedelta(weeks=2)),
        ("90min", timedelta(minutes=90)),
        ("0.000001s", timedelta(microseconds=1)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, value: timedelta) -> None:
    assert DURATION.validate_python(text) == value


@pytest.mark.parametrize("text", ["14", "d", "14 days", "-1d", "1e3s", "P14D", "١d", "", 14, 1.5, True, None])
def test_what_is_no_duration_is_refused_with_the_way_to_write_one(text: object) -> None:
    """A bare number once passed as seconds: `holdout: 14` was fourteen seconds."""
    with pytest.raises(ValidationError, match="is not a duration: write a number and one of s, min, h, d, w"):
        DURATION.validate_python(text)


def test_a_duration_of_nothing_or_of_ages_is_refused() -> None:
    with pytest.raises(ValidationError, match="longer than nothing"):
        DURATION.validate_python("0d")
    with pytest.raises(ValidationError, match="too long"):
        DURATION.validate_python("999999999999w")


@given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta.max))
@example(timedelta(seconds=1_234_567))
@example(timedelta(microseconds=1))
@example(timedelta.max)
def test_a_duration_reads_back_as_it_was_written(value: timedelta) -> None:
    """More than six digits were once rounded away, or written with an exponent that could not be read."""
    assert DURATION.validate_python(format_duration(value)) == value


def test_a_duration_is_written_in_its_largest_unit() -> None:
    values = [timedelta(days=14), timedelta(days=1), timedelta(hours=36), timedelta(seconds=90), timedelta(seconds=1.5)]
    assert [format_duration(value) for value in values] == ["2w", "1d", "36h", "90s", "1.5s"]


def test_a_declaration_reads_back_from_its_own_json() -> None:
    spec = make_spec(
        gates=[{"metric": "brier", "at_most": 0.2}, {"kind": "latency", "at_most_ms": 5}],
        training={"estimator": LOGISTIC, "holdout": "36h", "window": "8w", "start": "2024-01-01T00:00:00-05:00"},
    )
    assert ModelSpec.model_validate(spec.model_dump(mode="json", exclude_unset=True)) == spec
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.training.start == datetime(2024, 1, 1, 5, tzinfo=UTC)
    assert spec.number_features == ("temp", "seats", "night")
    assert spec.category_features == ("carrier", "origin")


def test_it_has_a_json_schema_and_cannot_be_changed() -> None:
    assert "14d" in str(ModelSpec.model_json_schema())
    with pytest.raises(ValidationError, match="frozen"):
        make_spec().name = "other"  # type: ignore[misc]


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The declaration with one place changed; `KeyError` stands for leaving it out."""
    whole = declaration(
        evaluation={"slices": ["origin"]}, gates=[{"metric": "brier", "at_most": 0.3}], imputation={}, quality={}
    )
    place: Any = whole
    for step in path[:-1]:
        place = place[step]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return whole


MISTAKES: list[tuple[tuple[str | int, ...], Any, str, str]] = [
    (("label",), KeyError, "label", "Field required"),
    (("features",), [], "features", "at least 1"),
    (("task",), "clustering", "task", "'binary', 'multiclass' or 'regression'"),
    (("name",), "Flight Delay", "name", "pattern"),
    (("owner",), "me", "owner", "neither an e-mail address nor 'team:<name>'"),
    (("owner",), "team:", "owner", "neither an e-mail address"),
    (("live_from",), "2024-03-01T00:00:00", "live_from", "names no time zone: end it with Z"),
    (("live_from",), 2024, "live_from", "is not a time: write ISO 8601"),
    (("live_from",), "2024", "live_from", "is not a time: write ISO 8601"),
    (("live_from",), "0001-01-01T00:00:00+05:00", "live_from", "out of range"),
    (("colour",), "red", "colour", "allowed are name, owner"),
    (("training", "holdot"), "1d", "training.holdot", "allowed are estimator, parameters"),
    (("features", 0, "kind"), "x", "features.0.kind", "allowed are name, type"),
    (
        ("training",),
        {
            "estimator": "sklearn.ensemble.HistGradientBoostingClassifier",
            "parameters": {"early_stopping": True},
            "holdout": "1d",
        },
        "training.parameters.early_stopping",
        "rows held out at random",
    ),
    (
        ("training",),
        {
            "estimator": "sklearn.ensemble.GradientBoostingClassifier",
            "parameters": {"n_iter_no_change": 3},
            "holdout": "1d",
        },
        "training.parameters.n_iter_no_change",
        "rows held out at random",
    ),
    (("source",), {}, "source", "exactly one of 'loader'"),
    (("source",), {"table": "a.csv", "loader": "builtins.dict"}, "source", "exactly one of 'loader'"),
    (("source",), {"table": "a.csv", "arguments": {"a": 1}}, "source", "a table takes none"),
    (("source",), {"loader": "builtins.nothing"}, "source.loader", "has no 'nothing'"),
    (("source",), {"loader": "math.pi"}, "source.loader", "not callable"),
    (("features", 0, "maximum"), -41, "features.0", "range upside down: minimum -40 is above maximum -41"),
    (("features", 0, "maximum"), float("nan"), "features.0.maximum", "finite"),
    (("features", 1, "name"), "temp", "features.1.name", "duplicate feature 'temp'"),
    (("features", 0, "type"), "float", "features.0.type", "'number', 'integer', 'boolean' or 'category'"),
    (("features", 0, "impute"), "most_frequent", "features.0", "choose one of mean, median, knn"),
    (("features", 3, "impute"), "knn", "features.3", "choose one of most_frequent, missing_category"),
    (("features", 3, "minimum"), 1, "features.3", "list its 'categories'"),
    (("features", 3, "categories"), ["AA", "AA"], "features.3", "duplicate category"),
    (("features", 0, "categories"), ["1"], "features.0", "give 'minimum' and 'maximum'"),
    (("features", 4, "domain"), "closed", "features.4", "needs 'minimum', 'maximum' or 'categories'"),
    (("features", 2, "name"), "flight", "features.2.name", "is the entity_key and cannot be a feature too"),
    (("features", 2, "name"), "late", "features.2.name", "is the label.column"),
    (("event_time",), "flight", "event_time", "declared as entity_key already"),
    (("label", "observed_at"), "at", "label.observed_at", "declared as event_time already"),
    (("label", "classes"), [0], "label.classes", "two or more"),
    (("label", "classes"), [1, "1"], "label.classes", "two or more different"),
    (("label", "classes"), [0, 1, 2], "label.classes", "binary takes two classes, found 3"),
    (("imputation", "drop_above"), 0.1, "imputation", "alarm_above 0.3 is above drop_above 0.1"),
    (("imputation", "max_donors"), 2001, "imputation.max_donors", "less than or equal to 2000"),
    (("imputation", "neighbours"), 0, "imputation.neighbours", "greater than or equal to 1"),
    (("quality", "max_quarantined_share"), 2, "quality.max_quarantined_share", "less than or equal to 1"),
    (("training", "estimator"), "sklearn.linear_model.LogisticRegresion", "training.estimator", "mean 'LogisticReg"),
    (("training", "estimator"), "sklearn.nowhere.X", "training.estimator", "cannot be imported"),
    (("training", "estimator"), "..X", "training.estimator", "is not an import path"),
    (("training", "estimator"), "LogisticRegression", "training.estimator", "is not an import path"),
    (("training", "estimator"), "builtins.dict", "training.estimator", "fit and get_params"),
    (("training", "estimator"), "sklearn.linear_model.Ridge", "training.estimator", "no classifier"),
    (("training", "estimator"), "sklearn.preprocessing.StandardScaler", "training.estimator", "no predict"),
    (("training", "parameters"), {"max_itr": 5}, "training.parameters.max_itr", "choose from penalty"),
    (("training", "native_categories"), True, "training.native_categories", "HistGradientBoosting"),
    (("training", "number_transformer"), {"estimator": LOGISTIC}, "training.number_transformer.estimator", "transform"),
    (("training", "holdout"), 14, "training.holdout", "is not a duration"),
    (("training", "window"), "1d", "training.holdout", "1d leaves nothing of the window 1d"),
    (("evaluation", "slices"), ["weather"], "evaluation.slices.0", "choose from temp, seats"),
    (("gates", 0), {"metric": "mae", "at_most": 1}, "gates.0.metric", "does not fit binary: choose from roc_auc"),
    (
        ("gates", 0),
        {"kind": "champion", "metric": "roc_auc"},
        "gates.0.metric",
        "choose from brier, log_loss, accuracy",
    ),
    (("gates", 0), {"metric": "brier"}, "gates.0.limit", "exactly one of 'at_least' and 'at_most'"),
    (("gates", 0), {"metric": "brier", "at_least": 0, "at_most": 1}, "gates.0.limit", "exactly one of"),
    (("gates", 0), {"kind": "guess", "metric": "brier"}, "gates.0", "'limit', 'baseline', 'champion', 'latency'"),
    (("gates",), [{"metric": "brier", "at_most": 1}] * 2, "gates.1", "'brier_at_most' is declared twice"),
]


@pytest.mark.parametrize(("path", "value", "where", "said"), MISTAKES)
def test_a_mistake_names_its_field_and_what_is_allowed(
    path: tuple[str | int, ...], value: Any, where: str, said: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate(changed(path, value))
    errors = {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}
    assert where in errors
    assert said in errors[where]


def test_the_unchanged_declaration_of_the_mistakes_is_right() -> None:
    assert ModelSpec.model_validate(changed(("description",), "fine")).gates[0].name == "brier_at_most"


def test_a_gate_per_slice_needs_slices() -> None:
    gate = {"metric": "brier", "at_most": 0.3, "per_slice": True}
    with pytest.raises(ValidationError, match=r"gates.0.per_slice\n.*no evaluation.slices"):
        make_spec(gates=[gate])
    assert make_spec(gates=[gate], evaluation={"slices": ["origin"]}).gates[0].name == "brier_at_most_per_slice"


def test_a_regression_takes_a_regressor_and_no_classes() -> None:
    label = {"column": "late", "delay": "2h"}
    ridge = {"estimator": "sklearn.linear_model.Ridge", "holdout": "1d"}
    assert make_spec(task="regression", training=ridge, label=label).task == "regression"
    with pytest.raises(ValidationError, match="a regression needs a regressor"):
        make_spec(task="regression", label=label)
    with pytest.raises(ValidationError, match="a regression has none"):
        make_spec(task="regression", training=ridge, label={**label, "classes": [0, 1]})


def test_native_categories_fit_a_boosted_model() -> None:
    training = {"estimator": BOOSTED, "parameters": {"max_iter": 5}, "native_categories": True, "holdout": "1d"}
    assert make_spec(training=training).training.native_categories


def test_an_estimator_that_takes_any_parameter_is_not_second_guessed() -> None:
    estimator = "lightgbm.LGBMClassifier"
    pytest.importorskip("lightgbm")
    training = {"estimator": estimator, "parameters": {"bagging_freq": 1}, "holdout": "1d"}
    assert make_spec(training=training).training.parameters == {"bagging_freq": 1}


def test_an_object_is_imported_by_either_way_to_write_its_path() -> None:
    assert import_object("math.floor") is import_object("math:floor")


def test_a_module_that_breaks_on_import_is_a_mistake_in_the_field_that_names_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_loader.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValidationError, match=r"source.loader\n.*ZeroDivisionError"):
        make_spec(source={"loader": "broken_loader.load"})


class TestMonitoring:
    def test_the_loss_that_decides_has_a_default(self):
        assert make_spec().headline_loss == "brier"

    @pytest.mark.parametrize(
        ("declared", "where", "what"),
        [
            ({"metric": "roc_auc"}, ("monitoring", "metric"), "choose from brier, log_loss"),
            ({"timezone": "America/New_Yrok"}, ("monitoring", "timezone"), "did you mean 'America/New_York'"),
            ({"window": "hour", "timezone": "Europe/Berlin"}, ("monitoring", "timezone"), "hours are those of UTC"),
            ({"confirm": {"alarms": 6}}, ("monitoring", "confirm"), "can never come"),
            ({"until": "2000-01-01T00:00:00Z"}, ("monitoring", "until"), "ends before it goes live"),
        ],
    )
    def test_a_mistake_names_its_place_and_the_remedy(self, declared, where, what):
        with pytest.raises(ValidationError) as caught:
            make_spec(monitoring=declared)
        assert caught.value.errors()[0]["loc"] == where
        assert what in caught.value.errors()[0]["msg"]
