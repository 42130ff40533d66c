"""Missing values: their rates on training rows, the plan that fills them, and the transformer that carries the plan out.

The plan is data (`core/manifest.py`); whoever holds it fills the same holes with the same values, in training and in service.
"""

from functools import lru_cache
from typing import Any, Self

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from mlops_assets.core.manifest import ImputationPlan, ImputedFeature
from mlops_assets.core.neighbours import Donors, fill_from_donors
from mlops_assets.core.spec import FeatureSpec, ModelSpec

MISSING_CATEGORY = "missing"


def missing_rates(frame: pd.DataFrame, features: tuple[str, ...]) -> dict[str, float]:
    """Share of missing values of each feature, over the rows given."""
    return {name: float(frame[name].isna().mean()) for name in features}


def make_plan(spec: ModelSpec, training_rows: pd.DataFrame) -> ImputationPlan:
    """Decide how each feature is filled, from training rows alone.

    Parameters
    ----------
    spec
        The declaration: strategies and limits.
    training_rows
        Validated rows, at least one; numeric features float64, categories str or missing.

    Raises
    ------
    ValueError
        When there is no row, or every feature is nearly empty, so that nothing is left to learn from.
    """
    if training_rows.empty:
        raise ValueError(f"model {spec.name!r}: no training rows to plan the imputation from")
    rates = missing_rates(training_rows, spec.feature_names)
    features = tuple(
        _plan_feature(spec, feature, training_rows[feature.name], rates[feature.name]) for feature in spec.features
    )
    plan = ImputationPlan(features, spec.imputation.neighbours)
    if not plan.kept:
        raise ValueError(
            f"model {spec.name!r}: every feature is missing in more than {spec.imputation.drop_above:.0%} of {len(training_rows)} "
            "training rows; check the source, or raise imputation.drop_above"
        )
    return _with_donors(spec, plan, training_rows) if plan.knn else plan


def _plan_feature(spec: ModelSpec, feature: FeatureSpec, values: pd.Series, rate: float) -> ImputedFeature:
    rules = spec.imputation
    alarm = rate > rules.alarm_above
    if rate > rules.drop_above or rate == 1.0:
        return ImputedFeature(feature.name, "dropped", rate, alarm)
    if feature.is_category:
        strategy = feature.impute or (rules.category_above_alarm if alarm else rules.category)
    else:
        strategy = feature.impute or (rules.number_above_alarm if alarm else rules.number)
    match strategy:
        case "knn":
            return ImputedFeature(feature.name, "knn", rate, alarm)
        case "mean":
            return ImputedFeature(feature.name, "mean", rate, alarm, float(values.mean()))
        case "median":
            return ImputedFeature(feature.name, "median", rate, alarm, float(values.median()))
        case "most_frequent":
            return ImputedFeature(feature.name, "most_frequent", rate, alarm, str(values.mode().iloc[0]))
        case "missing_category":
            return ImputedFeature(feature.name, "missing_category", rate, alarm, MISSING_CATEGORY)


def _with_donors(spec: ModelSpec, plan: ImputationPlan, training_rows: pd.DataFrame) -> ImputationPlan:
    columns = tuple(name for name in spec.number_features if name in plan.kept)
    every = training_rows[list(columns)].to_numpy(np.float64)
    giving = ~np.isnan(every[:, [columns.index(name) for name in plan.knn]])
    picked = _pick_donors(giving, spec.imputation.max_donors, np.random.default_rng(spec.training.seed))
    values = every[picked]
    plan = _without_donors_the_mean(plan, giving[picked].any(axis=0), training_rows)
    with np.errstate(over="ignore"):
        scales = np.nanstd(every, axis=0)
    # the deviation of a constant need not round to 0, and that of huge values is infinite
    scales[(np.nanmin(every, axis=0) == np.nanmax(every, axis=0)) | ~np.isfinite(scales)] = 1.0
    donors = tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in values)
    return msgspec.structs.replace(plan, donor_columns=columns, donor_scales=tuple(map(float, scales)), donors=donors)


def _pick_donors(giving: NDArray[np.bool_], most: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Rows that can give a value to some feature, at most `most`, drawn at random; one for each feature before all others."""
    candidates = np.flatnonzero(giving.any(axis=1))
    if len(candidates) <= most:
        return candidates
    shuffled = random.permutation(candidates)
    firsts = [shuffled[giving[shuffled, feature].argmax()] for feature in range(giving.shape[1])]
    return np.sort(np.array(list(dict.fromkeys([*firsts, *shuffled]))[:most]))


def _without_donors_the_mean(
    plan: ImputationPlan, has_donor: NDArray[np.bool_], training_rows: pd.DataFrame
) -> ImputationPlan:
    """A feature that no donor can give a value, because fewer donors are allowed than there are features, gets its mean."""
    lacking = {name for name, given in zip(plan.knn, has_donor, strict=True) if not given}
    features = tuple(
        msgspec.structs.replace(one, strategy="mean", value=float(training_rows[one.name].mean()))
        if one.name in lacking
        else one
        for one in plan.features
    )
    return msgspec.structs.replace(plan, features=features)


def encode_plan(plan: ImputationPlan) -> str:
    """The plan as JSON."""
    return msgspec.json.encode(plan).decode()


def decode_plan(text: str) -> ImputationPlan:
    """The plan that `encode_plan` wrote."""
    return msgspec.json.decode(text, type=ImputationPlan)


class PlanImputer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Fill missing values as an `ImputationPlan` says; drop the features it drops.

    A scikit-learn transformer from a DataFrame with the raw features (numbers as float, categories as str, missing as NaN or
    None; other columns are ignored) to a DataFrame without holes, numbers first, in the order of the plan. KNN distances are
    taken on the values as received, before any other feature is filled.

    Parameters
    ----------
    plan_json
        The plan, as JSON, so that the fitted pipeline holds nothing but plain values.
    category_features
        Names of the categories among the plan's features.
    """

    def __init__(self, plan_json: str, category_features: list[str]) -> None:
        self.plan_json = plan_json
        self.category_features = category_features

    @classmethod
    def from_plan(cls, plan: ImputationPlan, spec: ModelSpec) -> Self:
        return cls(encode_plan(plan), list(spec.category_features))

    @property
    def plan(self) -> ImputationPlan:
        return _read_plan(self.plan_json)[0]

    def fit(self, frame: pd.DataFrame, y: object = None) -> Self:
        """Note the inputs; nothing is learnt from `frame`."""
        self.feature_names_in_ = np.array([feature.name for feature in self.plan.features], dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        return self

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        check_is_fitted(self, "feature_names_in_")
        plan, donors = _read_plan(self.plan_json)
        filled: dict[str, Any] = {}
        for name in self._output_names(plan):
            if name in self.category_features:
                column = frame[name].astype(object)
                filled[name] = column.where(column.notna(), plan[name].value)
            else:
                values = frame[name].to_numpy(np.float64)
                value = plan[name].value
                filled[name] = values if value is None else np.where(np.isnan(values), value, values)
        if donors is not None:
            columns = np.array([plan.donor_columns.index(name) for name in plan.knn], dtype=np.int64)
            raw = frame[list(plan.donor_columns)].to_numpy(np.float64)
            neighbours = fill_from_donors(raw, columns, donors)
            for name, column in zip(plan.knn, columns, strict=True):
                filled[name] = neighbours[:, column]
        return pd.DataFrame(filled, index=frame.index)

    def _output_names(self, plan: ImputationPlan) -> list[str]:
        numbers = [name for name in plan.kept if name not in self.category_features]
        return numbers + [name for name in plan.kept if name in self.category_features]

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        return np.array(self._output_names(self.plan), dtype=object)


@lru_cache(maxsize=16)
def _read_plan(plan_json: str) -> tuple[ImputationPlan, Donors | None]:
    plan = msgspec.json.decode(plan_json, type=ImputationPlan)
    if not plan.knn:
        return plan, None
    values = np.array(plan.donors, dtype=np.float64).reshape(len(plan.donors), len(plan.donor_columns))
    return plan, Donors.of(values, np.array(plan.donor_scales), plan.neighbours)
