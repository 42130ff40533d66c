"""`deployed_bento`: acts on the verdict. A Bento and a new release plan, proven to answer, or a refusal that everybody sees."""

from collections.abc import Iterator

import dagster as dg
import pandas as pd

from mlops_assets.assets.documents import CANDIDATE, EVALUATION
from mlops_assets.assets.frames import FrameTypes
from mlops_assets.assets.pools import lifecycle_pool
from mlops_assets.core.evaluation import Evaluation
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training_request import requested
from mlops_assets.operations.carry_out import DECISION_TAG
from mlops_assets.operations.release import Released, ReleaseRefused, deploy, final_fit, require_leave, require_verdict
from mlops_assets.operations.train import Candidate, Fitted
from mlops_assets.resources import StoresResource, TrackingResource


def deployed_bento_asset(spec: ModelSpec, types: FrameTypes) -> dg.AssetsDefinition:
    """The asset that releases a candidate whose gates have passed."""
    key = dg.AssetKey([spec.name, "deployed_bento"])

    @dg.asset(
        key=key,
        group_name=spec.name,
        pool=lifecycle_pool(spec),
        owners=[spec.owner],
        description="The Bento and the release plan that put the judged model into service.",
        ins={
            "validated_features": dg.AssetIn([spec.name, "validated_features"], dagster_type=types.validated),
            "trained_model": dg.AssetIn([spec.name, "trained_model"], dagster_type=CANDIDATE),
            "evaluation": dg.AssetIn([spec.name, "evaluation"], dagster_type=EVALUATION),
        },
        kinds={"bentoml"},
        output_required=False,
        check_specs=[
            dg.AssetCheckSpec(
                "released",
                asset=key,
                blocking=True,
                description="The candidate passed its gates and answers in service.",
            ),
            dg.AssetCheckSpec(
                "final_fit_compiled", asset=key, description="The served fit equals scikit-learn, compiled."
            ),
            dg.AssetCheckSpec(
                "smoke_test", asset=key, description="What is in service answers its golden rows exactly."
            ),
        ],
    )
    def deployed_bento(
        context: dg.AssetExecutionContext,
        stores: StoresResource,
        tracking: TrackingResource,
        validated_features: pd.DataFrame,
        trained_model: Candidate,
        evaluation: Evaluation,
    ) -> Iterator[dg.Output[str] | dg.AssetCheckResult]:
        opened, asked = stores.open(), requested(spec, validated_features)
        tracking.run(context, spec.name)
        try:
            require_verdict(trained_model, evaluation)
            decision, actor = context.run.tags.get(DECISION_TAG, ""), f"run:{context.run.run_id}"
            require_leave(spec, opened, decision)
            final = final_fit(asked, opened, validated_features, trained_model)
            released = deploy(asked, opened, trained_model, evaluation, final, actor, decision=decision)
        except ReleaseRefused as refusal:
            yield dg.AssetCheckResult(asset_key=key, check_name="released", passed=False, description=str(refusal))
            raise dg.Failure(f"{refusal}; the champion stays", allow_retries=False) from refusal
        yield dg.Output(released.bento, metadata=_metadata(released))
        yield dg.AssetCheckResult(asset_key=key, check_name="released", passed=True, description=released.plan.reason)
        yield _compiled(key, final[0])
        smoke = released.smoke
        yield dg.AssetCheckResult(asset_key=key, check_name="smoke_test", passed=smoke.passed, description=smoke.why)

    return deployed_bento


def _metadata(released: Released) -> dict[str, dg.MetadataValue]:
    plan = released.plan
    return {
        "release": dg.MetadataValue.int(plan.release),
        "new_release": dg.MetadataValue.bool(released.is_new),
        "on_trial": dg.MetadataValue.bool(released.on_trial),
        "version": dg.MetadataValue.int(released.manifest.version),
        "bundle": dg.MetadataValue.text((plan.challenger or plan.champion).bundle),
        "bento": dg.MetadataValue.text(released.bento),
        "workers": dg.MetadataValue.int(released.workers),
        "smoke_test": dg.MetadataValue.text(released.smoke.why),
        "reason": dg.MetadataValue.text(plan.reason),
        "trained_until": dg.MetadataValue.timestamp(released.manifest.training_end),
        "training_rows": dg.MetadataValue.int(released.manifest.training_rows),
    }


def _compiled(key: dg.AssetKey, fitted: Fitted) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="final_fit_compiled",
        passed=fitted.uncompiled is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"served by scikit-learn: {fitted.uncompiled}"
        if fitted.uncompiled
        else f"equal to scikit-learn: {fitted.parity}",
    )
