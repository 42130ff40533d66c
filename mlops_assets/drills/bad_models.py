"""Versions that should never have been registered, made like any other: with bundle, golden rows and reference."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from mlops_assets.core.evaluation import Evaluation
from mlops_assets.core.schema import validate
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import TrainingRows
from mlops_assets.operations.evaluate import evaluate
from mlops_assets.operations.history import read_history
from mlops_assets.operations.release import Released, deploy, final_fit, plan_release
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.train import Candidate, Fitted, plan_imputation, train


@dataclass(frozen=True)
class Judged:
    """What was trained on spoilt labels, and judged by such labels too, so that nothing about it looks odd from inside."""

    candidate: Candidate
    evaluation: Evaluation
    final: tuple[Fitted, TrainingRows]


def register_shuffled(spec: ModelSpec, stores: Stores, as_of: datetime) -> int:
    """Register a version that was trained on labels in random order, as a botched join would leave them. Returns its number.

    Nothing is released.
    """
    random = np.random.default_rng(spec.training.seed)

    def shuffled(labels: "pd.Series[float]") -> "pd.Series[float]":
        return pd.Series(random.permutation(labels.to_numpy()), index=labels.index)

    with _trained(spec, stores, as_of, shuffled, "labels in random order") as made:
        plan, _ = plan_release(spec, stores, made.candidate, made.evaluation, made.final, "nobody")
    return plan.champion.version


def release_misled(spec: ModelSpec, stores: Stores, as_of: datetime, too_large: float, decided_by: str) -> Released:
    """Release, as is declared, a version of a regression whose labels are all too large by as much.

    As where time on the ground counts for time in the air.
    The held-out rows say the same, so that it passes its gates.

    Raises
    ------
    ReleaseRefused
        When it does not pass all the same.
    """
    with _trained(spec, stores, as_of, lambda labels: labels + too_large, f"labels {too_large:g} too large") as made:
        return deploy(spec, stores, made.candidate, made.evaluation, made.final, decided_by)


@contextmanager
def _trained(
    spec: ModelSpec,
    stores: Stores,
    as_of: datetime,
    spoilt: "Callable[[pd.Series[float]], pd.Series[float]]",
    run_name: str,
) -> Iterator[Judged]:
    """Train and judge on spoilt labels, in a run of MLflow that is open as long as the block lasts."""
    history = read_history(spec, stores, as_of)
    valid = validate(spec, history.frame).valid
    valid.attrs = dict(history.frame.attrs)
    labels = valid[spec.label.column]
    valid.loc[labels.notna(), spec.label.column] = spoilt(labels[labels.notna()])
    experiment = stores.registry.experiment(spec.name)
    run = stores.registry.client.create_run(experiment, tags={"mlflow.runName": run_name}).info.run_id
    imputation, _ = plan_imputation(spec, valid, as_of)
    candidate, _, _ = train(spec, stores, valid, imputation, as_of, history.data_hash, (run, ""))
    judged = evaluate(spec, stores, valid, candidate).evaluation
    yield Judged(candidate, judged, final_fit(spec, stores, valid, candidate))
    stores.registry.client.set_terminated(run)
