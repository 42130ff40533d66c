"""Fitting a declared model on its training window, and registering what came out."""

import time
from dataclasses import dataclass
from datetime import datetime

import msgspec
import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from mlops_assets.core.contract import make_contract
from mlops_assets.core.imputation import make_plan
from mlops_assets.core.manifest import FeatureContract, ImputationPlan
from mlops_assets.core.scoring.compile import Uncompilable, compile_pipeline
from mlops_assets.core.scoring.parity import ParityReport, check_parity, hard_rows
from mlops_assets.core.scoring.persist import dump_pipeline
from mlops_assets.core.scoring.scorer import CompiledScorer
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import (
    TrainingRows,
    encode_label,
    find_classes,
    fit_pipeline,
    predict,
    split_training_rows,
)
from mlops_assets.operations.provenance import code_version, libraries
from mlops_assets.operations.stores import Stores


class Candidate(msgspec.Struct, frozen=True):
    """A registered version that waits for its evaluation, and all that tells where it comes from."""

    model: str
    version: int
    mlflow_run: str
    dagster_run: str
    as_of: datetime
    training_start: datetime
    training_end: datetime
    training_rows: int
    classes: tuple[str | int, ...]
    plan: ImputationPlan
    contract: tuple[FeatureContract, ...]
    data_hash: str
    code_version: str
    uncompiled: str | None
    fit_s: float


@dataclass(frozen=True)
class Fitted:
    """A pipeline with what is served of it: its compiled scorer, or the reason why there is none."""

    pipeline: Pipeline
    contract: tuple[FeatureContract, ...]
    plan: ImputationPlan
    classes: tuple[str | int, ...]
    scorer: CompiledScorer | None
    uncompiled: str | None
    parity: ParityReport | None
    skops: bytes
    trusted: tuple[str, ...]
    fit_s: float


def plan_imputation(spec: ModelSpec, frame: pd.DataFrame, as_of: datetime) -> tuple[ImputationPlan, TrainingRows]:
    """The plan made from the rows that the gated model is fitted on, and the split it belongs to."""
    rows = split_training_rows(spec, frame, as_of)
    return make_plan(spec, rows.fit), rows


def fit(
    spec: ModelSpec, rows: pd.DataFrame, plan: ImputationPlan, classes: tuple[str | int, ...], parity_rows: pd.DataFrame
) -> Fitted:
    """Fit, compile and compare the compiled scorer with scikit-learn on `parity_rows` and on hard ones."""
    started = time.perf_counter()
    pipeline = fit_pipeline(spec, rows, plan, classes)
    fit_s = time.perf_counter() - started
    contract = make_contract(spec, rows)
    skops, trusted = dump_pipeline(pipeline)
    scorer: CompiledScorer | None = None
    parity: ParityReport | None = None
    uncompiled: str | None = None
    try:
        scorer = compile_pipeline(pipeline, contract)
    except Uncompilable as reason:
        uncompiled = str(reason)
    if scorer is not None:
        parity = check_parity(pipeline, scorer, parity_rows[list(spec.feature_names)], hard_rows(contract, pipeline))
        if not parity.passed:
            scorer, uncompiled = None, f"the compiled scorer differs from scikit-learn: {parity}"
    return Fitted(pipeline, contract, plan, classes, scorer, uncompiled, parity, skops, trusted, fit_s)


def train(
    spec: ModelSpec,
    stores: Stores,
    frame: pd.DataFrame,
    plan: ImputationPlan,
    as_of: datetime,
    data_hash: str,
    runs: tuple[str, str],
) -> tuple[Candidate, Fitted, TrainingRows]:
    """Fit on the window without its held-out part, and register the result as the candidate that the gates judge.

    Parameters
    ----------
    frame
        Validated rows.
    plan
        The imputation plan of the same rows.
    runs
        Ids of the MLflow run to log to and of the Dagster run that asked for it.
    """
    rows = split_training_rows(spec, frame, as_of)
    classes = find_classes(spec, rows.whole[spec.label.column])
    fitted = fit(spec, rows.fit, plan, classes, rows.holdout)
    mlflow_run, dagster_run = runs
    tags = {"fit": "gated", "as_of": as_of.isoformat(), "training_end": rows.split.isoformat()}
    version = stores.registry.register(spec.name, mlflow_run, "gated", fitted.pipeline, fitted.trusted, tags)
    candidate = Candidate(
        model=spec.name,
        version=version,
        mlflow_run=mlflow_run,
        dagster_run=dagster_run,
        as_of=as_of,
        training_start=rows.start,
        training_end=rows.split,
        training_rows=len(rows.fit),
        classes=classes,
        plan=plan,
        contract=fitted.contract,
        data_hash=data_hash,
        code_version=code_version(),
        uncompiled=fitted.uncompiled,
        fit_s=fitted.fit_s,
    )
    return candidate, fitted, rows


def run_parameters(spec: ModelSpec, candidate: Candidate) -> dict[str, str]:
    """What the tracking run records of a training: the declaration, the window, the data and the code."""
    declared = {f"estimator.{name}": str(value) for name, value in spec.training.parameters.items()}
    return {
        "estimator": spec.training.estimator,
        **declared,
        "as_of": candidate.as_of.isoformat(),
        "training_start": candidate.training_start.isoformat(),
        "training_end": candidate.training_end.isoformat(),
        "training_rows": str(candidate.training_rows),
        "features": ", ".join(candidate.plan.kept),
        "dropped_features": ", ".join(candidate.plan.dropped),
        "seed": str(spec.training.seed),
        "data_hash": candidate.data_hash,
        "code_version": candidate.code_version,
        **{f"library.{name}": version for name, version in libraries().items()},
    }


def is_reproducible(
    spec: ModelSpec, rows: pd.DataFrame, plan: ImputationPlan, classes: tuple[str | int, ...], sample: int = 5_000
) -> bool:
    """Fit twice on the newest `sample` rows: are the predictions byte-identical?"""
    newest = rows.tail(sample)
    if spec.task != "regression" and len(np.unique(encode_label(spec, newest[spec.label.column], classes))) < len(
        classes
    ):
        newest = rows
    features = newest[list(spec.feature_names)]
    first, second = (predict(fit_pipeline(spec, newest, plan, classes), features).tobytes() for _ in range(2))
    return first == second
