"""A model of the model's loss: how large an error is to be expected of a row, given its features.

What a regression's performance without labels is estimated from, and what its realised loss is held against.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import mean_poisson_deviance

from mlops_assets.core.contract import make_contract
from mlops_assets.core.imputation import make_plan
from mlops_assets.core.manifest import ImputationPlan
from mlops_assets.core.metrics import Floats
from mlops_assets.core.scoring.compile import Uncompilable, compile_pipeline
from mlops_assets.core.scoring.scorer import CompiledScorer
from mlops_assets.core.spec import ModelSpec, TrainingSpec
from mlops_assets.core.training import fit_pipeline, predict

MIN_ROWS = 1_000
# HistGradientBoosting takes at most 255 categories as its own.
_MOST_LEVELS = 200


def fit_loss_model(
    spec: ModelSpec, held_out_rows: pd.DataFrame, losses: Floats, plan: ImputationPlan | None = None
) -> CompiledScorer | None:
    """Fit a small boosted model of a regression's losses on rows that the regression had not seen.

    Poisson deviance is kept for losses: positive, and with their mean right whatever their distribution (Gourieroux, Monfort
    and Trognon 1984). Few shallow trees with large leaves, since a held-out part is short and hangs together by day.

    Parameters
    ----------
    held_out_rows
        Validated rows in event-time order.
    losses
        Their absolute errors, shape (n,), in the label's unit.
    plan
        How missing features are filled; by default made from these rows.

    Returns
    -------
    CompiledScorer or None
        From raw features to the expected loss, shape (n, 1). None where the features tell nothing: fewer than `MIN_ROWS` rows, or
        a fit on the first half of them does no better than a constant on the second.

    Raises
    ------
    ValueError
        When the losses are not one number of at least 0 a row.
    """
    if losses.shape != (len(held_out_rows),) or not (np.isfinite(losses) & (losses >= 0)).all():
        raise ValueError(
            f"model {spec.name!r}: a loss model needs one loss of at least 0 for each of {len(held_out_rows)} held-out rows"
        )
    half = len(losses) // 2
    if len(losses) < MIN_ROWS or not losses[:half].any():
        return None
    plan = make_plan(spec, held_out_rows) if plan is None else plan
    question = _question(spec, held_out_rows)
    rows = held_out_rows.assign(**{spec.label.column: losses})
    features = list(spec.feature_names)
    early, later = fit_pipeline(question, rows.iloc[:half], plan, ()), losses[half:]
    if not later.any() or not _tells(later, predict(early, rows.iloc[half:][features])[:, 0]):
        return None
    pipeline = fit_pipeline(question, rows, plan, ())
    try:
        return compile_pipeline(pipeline, make_contract(spec, rows))
    except Uncompilable:
        return None


def _tells(losses: Floats, predicted: Floats) -> bool:
    """Is the prediction, brought to the right mean, nearer to the losses than their mean is?

    Only the shape counts: the level wanders from week to week, and whoever uses the model anchors it on a reference.
    """
    anchored = predicted * (losses.mean() / predicted.mean())
    return bool(
        mean_poisson_deviance(losses, anchored) < mean_poisson_deviance(losses, np.full_like(losses, losses.mean()))
    )


def _question(spec: ModelSpec, rows: pd.DataFrame) -> ModelSpec:
    """The declaration with the loss as its label and a model of the loss as its estimator."""
    native = all(rows[name].nunique() <= _MOST_LEVELS for name in spec.category_features)
    ordinal = {
        "estimator": "sklearn.preprocessing.OrdinalEncoder",
        "parameters": {"handle_unknown": "use_encoded_value", "unknown_value": -1},
    }
    training = {
        "estimator": "sklearn.ensemble.HistGradientBoostingRegressor",
        "parameters": {
            "loss": "poisson",
            "max_iter": 60,
            "learning_rate": 0.05,
            "max_leaf_nodes": 8,
            "min_samples_leaf": max(50, len(rows) // 100),
            "l2_regularization": 1.0,
        },
        "native_categories": native,
        "category_encoder": None if native else ordinal,
        "holdout": spec.training.holdout,
        "seed": spec.training.seed,
    }
    return spec.model_copy(
        update={
            "task": "regression",
            "label": spec.label.model_copy(update={"classes": None}),
            "training": TrainingSpec.model_validate(training),
        }
    )
