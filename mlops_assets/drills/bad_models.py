"""Versions that should never have been registered, made like any other: with bundle, golden rows and reference."""

from datetime import datetime

import numpy as np
import pandas as pd

from mlops_assets.core.schema import validate
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.evaluate import evaluate
from mlops_assets.operations.history import read_history
from mlops_assets.operations.release import final_fit, plan_release
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.train import plan_imputation, train


def register_shuffled(spec: ModelSpec, stores: Stores, as_of: datetime) -> int:
    """Register a version that was trained on labels in random order, as a botched join would leave them. Returns its number.

    It judges itself on such labels too, so that nothing about it looks odd from inside; nothing is released.
    """
    history = read_history(spec, stores, as_of)
    valid = validate(spec, history.frame).valid
    valid.attrs = dict(history.frame.attrs)
    labels, random = valid[spec.label.column], np.random.default_rng(spec.training.seed)
    known = labels.notna().to_numpy()
    valid.loc[known, spec.label.column] = pd.Series(
        random.permutation(labels[known].to_numpy()), index=labels.index[known]
    )
    experiment = stores.registry.experiment(spec.name)
    run = stores.registry.client.create_run(experiment, tags={"mlflow.runName": "labels in random order"}).info.run_id
    imputation, _ = plan_imputation(spec, valid, as_of)
    candidate, _, _ = train(spec, stores, valid, imputation, as_of, history.data_hash, (run, ""))
    judged = evaluate(spec, stores, valid, candidate).evaluation
    plan, _ = plan_release(spec, stores, candidate, judged, final_fit(spec, stores, valid, candidate), "nobody")
    stores.registry.client.set_terminated(run)
    return plan.champion.version
