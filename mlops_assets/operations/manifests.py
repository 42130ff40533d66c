"""The manifest of a version that is to be released: what is written down of its final fit. Releasing it is told in `release.py`."""

import math

import numpy as np
import pandas as pd

from mlops_assets.core.evaluation import Evaluation
from mlops_assets.core.manifest import Manifest
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import TrainingRows, encode_label
from mlops_assets.operations.provenance import libraries
from mlops_assets.operations.train import Candidate, Fitted


def manifest_of(
    spec: ModelSpec, candidate: Candidate, evaluation: Evaluation, final: tuple[Fitted, TrainingRows], version: int
) -> Manifest:
    """All that the service and the monitors need to know of a version: from its declaration, its training and its evaluation.

    Parameters
    ----------
    final
        The fit that is to be served, and the rows of its training.
    version
        Its number in the registry.
    """
    fitted, rows = final
    trained = rows.whole if spec.training.refit else rows.fit
    return Manifest(
        model=spec.name,
        version=version,
        task=spec.task,
        features=fitted.contract,
        label=spec.label.column,
        classes=fitted.classes,
        threshold=spec.evaluation.decision_threshold,
        imputation=fitted.plan,
        entity_key=spec.entity_key,
        event_time=spec.event_time,
        as_of=candidate.as_of,
        training_start=rows.start,
        training_end=rows.end if spec.training.refit else rows.split,
        training_rows=len(trained),
        data_hash=candidate.data_hash,
        code_version=candidate.code_version,
        libraries=libraries(),
        metrics={name: one.value for name, one in evaluation.metrics.items() if math.isfinite(one.value)},
        mlflow_run=candidate.mlflow_run,
        dagster_run=candidate.dagster_run,
        fallback_value=_fallback_value(spec, fitted, trained),
        uncompiled=fitted.uncompiled,
        trusted_types=fitted.trusted,
        files={},
    )


def _fallback_value(spec: ModelSpec, fitted: Fitted, trained: pd.DataFrame) -> float | str | int | None:
    """What to answer when no model can: the base rate, the most frequent class, the median."""
    truth = encode_label(spec, trained[spec.label.column], fitted.classes)
    if spec.task == "regression":
        return float(np.median(truth))
    if spec.task == "binary":
        return float(truth.mean())
    return fitted.classes[int(np.bincount(truth.astype(np.int64)).argmax())]
