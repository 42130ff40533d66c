"""Each family of estimators behind each kind of encoder: compiled equals scikit-learn; what is not understood is refused."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import RandomForestClassifier

from mlops_assets.core.scoring.compile import Uncompilable, compile_pipeline
from mlops_assets.core.scoring.parity import check_parity, hard_rows
from mlops_assets.core.scoring.scorer import CompiledScorer, Engine, differences
from mlops_assets.core.training import predict
from mlops_assets_tests.core.tables import LEVELS, fit, make_contract, make_spec, make_table

ENSEMBLE = "sklearn.ensemble."
LINEAR = "sklearn.linear_model."
PREPROCESSING = "sklearn.preprocessing."

ONE_HOT: dict[str, Any] = {}
RARE_ONE_HOT = {
    "category_encoder": {
        "estimator": PREPROCESSING + "OneHotEncoder",
        "parameters": {"handle_unknown": "infrequent_if_exist", "min_frequency": 90, "sparse_output": False},
    }
}
ORDINAL = {
    "category_encoder": {
        "estimator": PREPROCESSING + "OrdinalEncoder",
        "parameters": {"handle_unknown": "use_encoded_value", "unknown_value": -1},
    }
}
ORDINAL_MISSING = {
    "category_encoder": {
        "estimator": PREPROCESSING + "OrdinalEncoder",
        "parameters": {"handle_unknown": "use_encoded_value", "unknown_value": float("nan")},
    }
}
REFUSING = {"category_encoder": {"estimator": PREPROCESSING + "OrdinalEncoder"}}
TARGET = {"category_encoder": {"estimator": PREPROCESSING + "TargetEncoder"}}
NATIVE = {"native_categories": True}


def scaled(name: str, **parameters: Any) -> dict[str, Any]:
    return {"number_transformer": {"estimator": PREPROCESSING + name, "parameters": parameters}}


def assert_equal(task: str, estimator: str, parameters: dict[str, Any], **options: Any) -> CompiledScorer:
    training = {"parameters": parameters, **options.pop("training", {})}
    spec = make_spec(task, estimator, training=training, **options)
    pipeline, contract = fit(spec, make_table(300, seed=1, task=task))
    scorer = compile_pipeline(pipeline, contract)
    ordinary = make_table(150, seed=2, task=task, missing=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        hard = hard_rows(contract, pipeline).sample(150, random_state=0)
        report = check_parity(pipeline, scorer, ordinary, hard)
        slow = check_parity(pipeline, with_engine(scorer, "numpy"), ordinary, hard.head(40))
    assert report.passed, str(report)
    assert slow.passed, str(slow)
    return scorer


def with_engine(scorer: CompiledScorer, engine: Engine) -> CompiledScorer:
    return CompiledScorer.from_files(*scorer.to_files(), engine=engine)


@pytest.mark.parametrize(
    "encoder", [ONE_HOT, RARE_ONE_HOT, ORDINAL, ORDINAL_MISSING, REFUSING, TARGET, NATIVE],
    ids=["one_hot", "rare_one_hot", "ordinal", "ordinal_missing", "refusing", "target", "native"],
)  # fmt: skip
@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hist_gradient_boosting_equals_sklearn_behind_each_encoder(task: str, encoder: dict[str, Any]) -> None:
    assert_equal(task, ENSEMBLE + "HistGradientBoostingClassifier", {"max_iter": 10}, training=encoder)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "poisson", "gamma", "quantile"])
def test_each_loss_of_hist_gradient_boosting_equals_sklearn(loss: str) -> None:
    parameters = {"max_iter": 8, "loss": loss, **({"quantile": 0.7} if loss == "quantile" else {})}
    assert_equal("regression", ENSEMBLE + "HistGradientBoostingRegressor", parameters, training=NATIVE)


FORESTS = [
    ("binary", ENSEMBLE + "RandomForestClassifier", {"n_estimators": 7}, ONE_HOT),
    ("multiclass", ENSEMBLE + "ExtraTreesClassifier", {"n_estimators": 7}, ORDINAL_MISSING),
    ("regression", ENSEMBLE + "RandomForestRegressor", {"n_estimators": 7}, TARGET),
    ("regression", ENSEMBLE + "ExtraTreesRegressor", {"n_estimators": 7}, scaled("StandardScaler")),
    ("multiclass", "sklearn.tree.DecisionTreeClassifier", {}, ONE_HOT),
    ("regression", "sklearn.tree.DecisionTreeRegressor", {"max_depth": 5}, scaled("MinMaxScaler", clip=True)),
    ("binary", ENSEMBLE + "GradientBoostingClassifier", {"n_estimators": 7}, TARGET),
    ("binary", ENSEMBLE + "GradientBoostingClassifier", {"n_estimators": 7, "loss": "exponential"}, ONE_HOT),
    ("multiclass", ENSEMBLE + "GradientBoostingClassifier", {"n_estimators": 5, "init": "zero"}, ORDINAL),
    ("regression", ENSEMBLE + "GradientBoostingRegressor", {"n_estimators": 7, "loss": "huber"}, RARE_ONE_HOT),
]


@pytest.mark.parametrize(("task", "estimator", "parameters", "training"), FORESTS)
def test_forests_and_boosted_trees_equal_sklearn(
    task: str, estimator: str, parameters: dict[str, Any], training: dict[str, Any]
) -> None:
    assert_equal(task, estimator, parameters, training=training)


LINEARS = [
    ("binary", "LogisticRegression", {}, scaled("StandardScaler")),
    ("binary", "LogisticRegression", {"solver": "liblinear"}, scaled("RobustScaler")),
    ("multiclass", "LogisticRegression", {}, scaled("MinMaxScaler")),
    ("binary", "SGDClassifier", {"loss": "log_loss"}, scaled("StandardScaler")),
    ("regression", "LinearRegression", {}, {**TARGET, **scaled("MaxAbsScaler")}),
    ("regression", "Ridge", {}, scaled("StandardScaler", with_mean=False)),
    ("regression", "Lasso", {"alpha": 0.01}, scaled("RobustScaler", with_scaling=False)),
    ("regression", "ElasticNet", {"alpha": 0.01}, ORDINAL),
    ("regression", "PoissonRegressor", {}, scaled("StandardScaler")),
    ("regression", "HuberRegressor", {"max_iter": 500}, scaled("StandardScaler")),
]


@pytest.mark.parametrize(("task", "estimator", "parameters", "training"), LINEARS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_linear_models_equal_sklearn(
    task: str, estimator: str, parameters: dict[str, Any], training: dict[str, Any]
) -> None:
    assert_equal(task, LINEAR + estimator, parameters, training=training)


@pytest.mark.parametrize(
    ("task", "estimator", "objective"),
    [
        ("binary", "LGBMClassifier", {}),
        ("multiclass", "LGBMClassifier", {}),
        ("regression", "LGBMRegressor", {}),
        ("regression", "LGBMRegressor", {"objective": "tweedie"}),
    ],
)
def test_lightgbm_equals_itself(task: str, estimator: str, objective: dict[str, str]) -> None:
    pytest.importorskip("lightgbm")
    parameters = {"n_estimators": 10, "verbose": -1, "num_threads": 1, **objective}
    assert_equal(task, "lightgbm." + estimator, parameters, training=ORDINAL_MISSING)


def test_lightgbm_takes_values_next_to_zero_for_zero() -> None:
    """A threshold of -1e-35 was met by values that LightGBM had already read as zero."""
    pytest.importorskip("lightgbm")
    spec = make_spec(
        "regression", "lightgbm.LGBMRegressor", training={"parameters": {"verbose": -1, "objective": "tweedie"}}
    )
    table = make_table(600, task="regression")
    pipeline, contract = fit(spec, table)
    close = table.head(6).assign(temp=[-1.0000000180025095e-35, 1e-35, -1e-35, 1.1e-35, -1.1e-35, 5e-324])
    assert (
        differences(compile_pipeline(pipeline, contract).score_columns(close), predict(pipeline, close)).max() < 1e-12
    )


@pytest.mark.parametrize("strategy", ["prior", "most_frequent", "uniform"])
def test_constant_models_equal_sklearn(strategy: str) -> None:
    assert_equal("multiclass", "sklearn.dummy.DummyClassifier", {"strategy": strategy})


@pytest.mark.parametrize("estimator", ["HistGradientBoostingRegressor", "RandomForestRegressor"])
def test_neighbours_equal_the_plan(estimator: str) -> None:
    scorer = assert_equal(
        "regression", ENSEMBLE + estimator, {}, imputation={"number": "knn", "max_donors": 50, "neighbours": 3}
    )
    assert scorer.parts.layout.by_neighbours == ("distance", "seats", "temp", "night")


def test_a_dropped_feature_stays_an_input_that_is_ignored() -> None:
    scorer = assert_equal("binary", ENSEMBLE + "HistGradientBoostingClassifier", {"max_iter": 5})
    assert "empty" in scorer.features
    assert "empty" not in scorer.parts.layout.numbers
    row = ["AA", 500.0, 100, "JFK", None, 12.0, True]
    other = [*row[:4], 1e9, *row[5:]]
    assert scorer.score_rows([row]).tolist() == scorer.score_rows([other]).tolist()


@pytest.mark.parametrize("dropped", ["numbers", "categories"])
def test_a_model_of_one_kind_of_feature_alone(dropped: str) -> None:
    table = make_table(300, task="binary")
    table[list(LEVELS) if dropped == "categories" else ["distance", "seats", "temp", "night"]] = np.nan
    pipeline, contract = fit(make_spec("binary", LINEAR + "LogisticRegression"), table)
    scorer = compile_pipeline(pipeline, contract)
    assert differences(scorer.score_columns(table), predict(pipeline, table)).max() < 1e-12


@given(
    seed=st.integers(0, 10**6),
    missing=st.sampled_from([0.0, 0.2, 0.6]),
    strategy=st.sampled_from(["mean", "median", "knn"]),
    category=st.sampled_from(["most_frequent", "missing_category"]),
    encoder=st.sampled_from([ONE_HOT, RARE_ONE_HOT, ORDINAL, ORDINAL_MISSING, TARGET, NATIVE]),
    task=st.sampled_from(["binary", "multiclass", "regression"]),
)
@settings(max_examples=20, deadline=None)
def test_random_tables_and_plans_equal_sklearn(
    seed: int, missing: float, strategy: str, category: str, encoder: dict[str, Any], task: str
) -> None:
    kind = "Regressor" if task == "regression" else "Classifier"
    family = "HistGradientBoosting" if encoder is NATIVE or seed % 2 else "ExtraTrees"
    size = {"max_iter": 4} if family == "HistGradientBoosting" else {"n_estimators": 4}
    spec = make_spec(
        task,
        f"{ENSEMBLE}{family}{kind}",
        training={"parameters": size, **encoder},
        imputation={"number": strategy, "category": category, "neighbours": 1 + seed % 4, "max_donors": 60},
    )
    table = make_table(120, seed=seed, task=task, missing=missing)
    pipeline, contract = fit(spec, table)
    scorer = compile_pipeline(pipeline, contract)
    rows = make_table(60, seed=seed + 1, task=task, missing=0.4)
    rows.loc[::5, "carrier"] = "never seen"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = predict(pipeline, rows)
    for engine in ("numba", "numpy"):
        loaded = with_engine(scorer, engine)
        assert differences(loaded.score_columns(rows), expected).max() <= 1e-12
        assert loaded.to_files() == scorer.to_files()


class CrossEncoder(TransformerMixin, BaseEstimator):
    """Encodes two categories together, which no table by column can do."""

    def fit(self, frame: pd.DataFrame, y: object = None) -> "CrossEncoder":
        self.pair_ = (str(frame.iloc[0, 0]), str(frame.iloc[0, 1]))
        return self

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        both = (frame.iloc[:, 0] == self.pair_[0]) & (frame.iloc[:, 1] == self.pair_[1])
        return both.to_numpy(np.float64)[:, None]


class LengthEncoder(TransformerMixin, BaseEstimator):
    """Encodes a level by its length: no two unseen levels need be alike."""

    def fit(self, frame: pd.DataFrame, y: object = None) -> "LengthEncoder":
        self.width_ = frame.shape[1]
        return self

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        return frame.map(len).to_numpy(np.float64)


class CountEncoder(TransformerMixin, BaseEstimator):
    """An encoder that scikit-learn does not have: how often a level was seen."""

    def fit(self, frame: pd.DataFrame, y: object = None) -> "CountEncoder":
        self.counts_ = [frame[column].value_counts().to_dict() for column in frame]
        return self

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        columns = [frame[column].map(counts) for column, counts in zip(frame, self.counts_, strict=True)]
        return np.column_stack([column.fillna(0).to_numpy(np.float64) for column in columns])


def test_an_encoder_of_ones_own_is_compiled_by_probing() -> None:
    encoder = {"category_encoder": {"estimator": f"{__name__}.CountEncoder"}}
    assert_equal("binary", ENSEMBLE + "HistGradientBoostingClassifier", {"max_iter": 5}, training=encoder)


UNCOMPILABLE = [
    ("sklearn.neighbors.KNeighborsClassifier", {}, "no compiler for sklearn.neighbors"),
    (LINEAR + "RidgeClassifier", {}, "no probabilities"),
    ("sklearn.naive_bayes.GaussianNB", {}, "no compiler"),
    (LINEAR + "SGDClassifier", {"parameters": {"loss": "modified_huber"}}, "known link"),
    ("sklearn.dummy.DummyClassifier", {"parameters": {"strategy": "stratified"}}, "random"),
    (LINEAR + "LogisticRegression", scaled("QuantileTransformer", n_quantiles=10), "not affine"),
    (LINEAR + "LogisticRegression", scaled("PolynomialFeatures"), "columns of"),
    (
        LINEAR + "LogisticRegression",
        {"category_encoder": {"estimator": f"{__name__}.CrossEncoder"}},
        "each category by itself",
    ),
    (
        LINEAR + "LogisticRegression",
        {"category_encoder": {"estimator": f"{__name__}.LengthEncoder"}},
        "not encoded alike",
    ),
]


@pytest.mark.parametrize(("estimator", "training", "reason"), UNCOMPILABLE)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::FutureWarning")
def test_what_is_not_understood_is_refused_with_the_reason(
    estimator: str, training: dict[str, Any], reason: str
) -> None:
    pipeline, contract = fit(make_spec("binary", estimator, training=training), make_table(200, missing=0.0))
    with pytest.raises(Uncompilable, match=reason):
        compile_pipeline(pipeline, contract)


def test_a_subclass_is_not_taken_for_the_estimator_it_extends() -> None:
    spec = make_spec("binary", f"{__name__}.Doubtful")
    pipeline, contract = fit(spec, make_table(200))
    with pytest.raises(Uncompilable, match="Doubtful"):
        compile_pipeline(pipeline, contract)


def test_an_absent_class_is_refused() -> None:
    """Probabilities of the classes 0 and 2 would be read as those of 0 and 1."""
    spec = make_spec("multiclass", LINEAR + "LogisticRegression")
    table = make_table(200, task="multiclass")
    pipeline, _ = fit(spec, table)
    pipeline.fit(table[list(spec.feature_names)], np.where(table["y"] == "0", 0, 2))
    with pytest.raises(Uncompilable, match="absent in training"):
        compile_pipeline(pipeline, make_contract(spec, table))


class Doubtful(RandomForestClassifier):
    """A forest that might answer in any way."""
