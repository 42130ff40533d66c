"""What `<model>_lifecycle` does, in one call: train, judge and release, without Dagster and without a Bento."""

from datetime import datetime

import pandas as pd

from mlops_assets.core.carrying import Gate, KnownRun, run_outcome
from mlops_assets.core.ledger import Outcome
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.schema import validate
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training_request import TrainingRequest, requested
from mlops_assets.operations.evaluate import evaluate
from mlops_assets.operations.history import read_history
from mlops_assets.operations.release import ReleaseRefused, final_fit, plan_release, require_verdict
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.train import plan_imputation, train
from mlops_assets.stores.registry import AliasMove


def train_and_release(
    spec: ModelSpec,
    stores: Stores,
    as_of: datetime,
    request: TrainingRequest,
    *,
    source: pd.DataFrame | None = None,
    watched: bool = True,
) -> tuple[Outcome, str, ReleasePlan | None]:
    """What `<model>_lifecycle` does, in this process and without a Bento: the outcome, why, and the new plan if there is one."""
    history = read_history(spec, stores, as_of, request, source=source)
    validation = validate(spec, history.frame)
    valid = validation.valid
    valid.attrs = dict(history.frame.attrs)
    if validation.quarantined_share > spec.quality.max_quarantined_share or len(valid) < spec.quality.min_rows:
        why = f"{len(validation.quarantine)} of {validation.rows} rows are quarantined, {len(valid)} left"
        return "refused", why, None
    asked = requested(spec, valid)
    imputation, _ = plan_imputation(asked, valid, as_of)
    candidate, _, _ = train(asked, stores, valid, imputation, as_of, history.data_hash, ("replay", "replay"))
    evaluation = evaluate(asked, stores, valid, candidate).evaluation
    try:
        require_verdict(candidate, evaluation)
        final = final_fit(asked, stores, valid, candidate)
    except ReleaseRefused as refusal:
        gates = tuple(
            Gate(one.gate, f"{one.value:.5g}, limit {one.limit:.5g}") for one in evaluation.gates if not one.passed
        )
        run = KnownRun("replay", "failed", 1, gates or (Gate("released", str(refusal)),))
        return *run_outcome(run, request.trigger, None), None
    plan, is_new = plan_release(asked, stores, candidate, evaluation, final, "replay", watched=watched)
    if not is_new:
        return "unchanged", "the champion is that very model", None
    stores.releases.publish(plan)
    stores.registry.move_alias(spec.name, AliasMove("champion", plan.champion.version, as_of, plan.reason))
    return "done", plan.reason, plan
