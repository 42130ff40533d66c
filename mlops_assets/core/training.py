"""From a declaration, rows and an imputation plan to one fitted scikit-learn pipeline, raw features in, prediction out."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from mlops_assets.core.history import AS_OF
from mlops_assets.core.imputation import PlanImputer
from mlops_assets.core.manifest import ImputationPlan
from mlops_assets.core.spec import ModelSpec, StepSpec, format_duration, import_object


@dataclass(frozen=True)
class TrainingRows:
    """The labelled rows of one training window, in event-time order: the part to fit on and the part held out."""

    fit: pd.DataFrame
    holdout: pd.DataFrame
    start: datetime
    split: datetime
    end: datetime

    @property
    def whole(self) -> pd.DataFrame:
        return pd.concat([self.fit, self.holdout])


def training_as_of(frame: pd.DataFrame) -> datetime:
    """The `as_of` that a frame was read with, which its `attrs` carry from asset to asset."""
    return datetime.fromisoformat(frame.attrs[AS_OF])


def split_training_rows(spec: ModelSpec, frame: pd.DataFrame, as_of: datetime) -> TrainingRows:
    """Cut the training window that ends at `as_of` out of validated rows and hold its last part out.

    The split is by event time, never random. Rows without a label take no part.

    Raises
    ------
    ValueError
        When either part has no row, naming the times and what to change.
    """
    labelled = frame[frame[spec.label.column].notna() & (frame[spec.event_time] < as_of)]
    labelled = labelled.sort_values(spec.event_time, kind="stable")
    start = _window_start(spec, labelled, as_of)
    split = as_of - spec.training.holdout
    window = labelled[labelled[spec.event_time] >= start]
    earlier = window[spec.event_time] < split
    rows = TrainingRows(window[earlier], window[~earlier], start, split, as_of)
    for part, part_rows, since, until, other in (
        ("training", rows.fit, start, split, "shorter"),
        ("held-out", rows.holdout, split, as_of, "longer"),
    ):
        if part_rows.empty:
            raise ValueError(
                f"model {spec.name!r}: no labelled {part} row before {until.isoformat()} and from {since.isoformat()} on (as_of "
                f"{as_of.isoformat()}, holdout {format_duration(spec.training.holdout)}, labels known after "
                f"{format_duration(spec.label.delay)}); choose another as_of or window, or a {other} holdout"
            )
    return rows


def _window_start(spec: ModelSpec, labelled: pd.DataFrame, as_of: datetime) -> datetime:
    starts = [] if labelled.empty else [labelled[spec.event_time].iloc[0].to_pydatetime()]
    if spec.training.start is not None:
        starts.append(spec.training.start)
    if spec.training.window is not None:
        starts.append(as_of - spec.training.window)
    return max(starts, default=as_of)


def fit_pipeline(spec: ModelSpec, rows: pd.DataFrame, plan: ImputationPlan, classes: tuple[str | int, ...]) -> Pipeline:
    """Fit the declared estimator behind the plan and the encoders.

    Parameters
    ----------
    rows
        Validated rows with label, in event-time order.
    plan
        Made from training rows; becomes the first step.
    classes
        Labels in output order; empty for a regression. The pipeline is fitted on their codes 0..K-1.

    Raises
    ------
    ValueError
        When a class has no row, since the answers' columns would no longer be the classes; or when an encoder makes more
        columns than features and the estimator is to take them as its own categories.
    """
    truth = encode_label(spec, rows[spec.label.column], classes)
    absent = [value for code, value in enumerate(classes) if not (truth == code).any()]
    if absent:
        raise ValueError(
            f"model {spec.name!r}: none of the {len(rows)} rows to fit on is of class {', '.join(map(repr, absent))}; widen the "
            "training window, or take the class out of label.classes"
        )
    pipeline = build_pipeline(spec, plan).fit(rows[list(spec.feature_names)], truth)
    width = pipeline["encode"].get_feature_names_out().size if spec.training.native_categories else len(plan.kept)
    if width != len(plan.kept):
        raise ValueError(
            f"model {spec.name!r}: training.native_categories needs one column per feature, and the encoders make {width} of "
            f"{len(plan.kept)}; leave number_transformer and category_encoder out, or take ones that keep the columns"
        )
    return pipeline


def build_pipeline(spec: ModelSpec, plan: ImputationPlan) -> Pipeline:
    """The unfitted pipeline `impute` → `encode` → `model`."""
    numbers = [name for name in spec.number_features if name in plan.kept]
    categories = [name for name in spec.category_features if name in plan.kept]
    number_step = _step(spec.training.number_transformer, spec) if spec.training.number_transformer else "passthrough"
    encode = ColumnTransformer(
        [("numbers", number_step, numbers), ("categories", _category_encoder(spec), categories)],
        sparse_threshold=0.0,
        verbose_feature_names_out=False,
    )
    overrides: dict[str, Any] = {}
    if spec.training.native_categories:
        overrides["categorical_features"] = list(range(len(numbers), len(numbers) + len(categories)))
    model = _step(spec.training, spec, overrides)
    return Pipeline([("impute", PlanImputer.from_plan(plan, spec)), ("encode", encode), ("model", model)])


def _category_encoder(spec: ModelSpec) -> Any:
    if spec.training.category_encoder is not None:
        encoder = _step(spec.training.category_encoder, spec)
        # a target encoder fits its folds crosswise: folds of neighbouring rows, never of rows drawn at random
        in_time_order = {"shuffle": False, "random_state": None}
        return encoder.set_params(**in_time_order) if "shuffle" in encoder.get_params(deep=False) else encoder
    if spec.training.native_categories:
        return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    return OneHotEncoder(handle_unknown="ignore", sparse_output=False)


def _step(step: StepSpec, spec: ModelSpec, overrides: dict[str, Any] | None = None) -> Any:
    estimator = import_object(step.estimator)(**{**step.parameters, **(overrides or {})})
    known = estimator.get_params(deep=False)
    # the declaration refuses early stopping, because it holds out rows at random; here its automatic kind is turned off
    if "early_stopping" in known:
        estimator.set_params(early_stopping=False)
    if "random_state" in known and "random_state" not in step.parameters:
        estimator.set_params(random_state=spec.training.seed)
    return estimator


def find_classes(spec: ModelSpec, labels: pd.Series) -> tuple[str | int, ...]:
    """The classes in output order: declared, or the values found, numbers before texts, sorted; empty for a regression.

    Raises
    ------
    ValueError
        When a binary label has other than two values, any other fewer, or a value is not among the declared ones.
    """
    if spec.task == "regression":
        return ()
    plain = {_plain(value) for value in labels.dropna().unique()}
    found = tuple(sorted(plain, key=lambda value: (isinstance(value, str), value)))
    if spec.label.classes is not None:
        strange = [value for value in found if value not in spec.label.classes]
        if strange:
            raise ValueError(
                f"model {spec.name!r}: label {spec.label.column!r} holds {strange}, which are not among the declared classes "
                f"{list(spec.label.classes)}"
            )
        return spec.label.classes
    if len(found) < 2 or (spec.task == "binary" and len(found) > 2):
        raise ValueError(
            f"model {spec.name!r}: {spec.task} label {spec.label.column!r} has {len(found)} values in training: {list(found)[:10]}"
        )
    return found


def _plain(value: Any) -> str | int:
    if isinstance(value, str):
        return value
    if float(value) == int(value):
        return int(value)
    raise ValueError(f"class {value!r} is neither text nor a whole number")


def encode_label(spec: ModelSpec, labels: pd.Series, classes: tuple[str | int, ...]) -> NDArray[np.float64]:
    """Labels as float64: class codes 0..K-1, or the values of a regression."""
    if spec.task == "regression":
        return labels.to_numpy(np.float64)
    codes = {value: code for code, value in enumerate(classes)}
    return np.array([codes[_plain(value)] for value in labels], dtype=np.float64)


def predict(pipeline: Pipeline, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Probabilities, shape (n, K), or values, shape (n, 1), from raw features."""
    if hasattr(pipeline, "predict_proba"):
        return np.asarray(pipeline.predict_proba(rows), dtype=np.float64)
    return np.asarray(pipeline.predict(rows), dtype=np.float64).reshape(-1, 1)
