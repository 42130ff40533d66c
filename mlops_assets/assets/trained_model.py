"""`trained_model`: one pipeline from raw features to prediction, tracked, registered, reproducible, and compiled with proof."""

import dagster as dg
import pandas as pd

from mlops_assets.assets.documents import CANDIDATE
from mlops_assets.assets.frames import FrameTypes
from mlops_assets.assets.imputed_features import PLAN
from mlops_assets.assets.pools import lifecycle_pool
from mlops_assets.core.history import DATA_HASH
from mlops_assets.core.imputation import decode_plan
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import training_as_of
from mlops_assets.core.training_request import requested
from mlops_assets.operations.train import Candidate, Fitted, is_reproducible, run_parameters, train
from mlops_assets.resources import StoresResource, TrackingResource


def trained_model_asset(spec: ModelSpec, types: FrameTypes) -> dg.AssetsDefinition:
    """The asset that fits the candidate on the window without its held-out part."""
    key = dg.AssetKey([spec.name, "trained_model"])

    @dg.asset(
        key=key,
        group_name=spec.name,
        pool=lifecycle_pool(spec),
        owners=[spec.owner],
        description=f"`{spec.training.estimator}` behind the imputation plan and the encoders, registered in MLflow.",
        ins={
            "validated_features": dg.AssetIn([spec.name, "validated_features"], dagster_type=types.validated),
            "imputed_features": dg.AssetIn([spec.name, "imputed_features"], dagster_type=types.imputed),
        },
        dagster_type=CANDIDATE,
        kinds={"scikitlearn", "mlflow"},
        check_specs=[
            dg.AssetCheckSpec(
                "reproducible", asset=key, blocking=True, description="Two fits on the same rows answer the same bytes."
            ),
            dg.AssetCheckSpec(
                "compiled",
                asset=key,
                description="The compiled scorer equals scikit-learn on held-out and on hard rows.",
            ),
        ],
    )
    def trained_model(
        context: dg.AssetExecutionContext,
        stores: StoresResource,
        tracking: TrackingResource,
        validated_features: pd.DataFrame,
        imputed_features: pd.DataFrame,
    ) -> dg.MaterializeResult:
        run, asked = tracking.run(context, spec.name), requested(spec, validated_features)
        candidate, fitted, rows = train(
            asked,
            stores.open(),
            validated_features,
            decode_plan(imputed_features.attrs[PLAN]),
            training_as_of(validated_features),
            validated_features.attrs[DATA_HASH],
            (run.id, context.run.run_id),
        )
        run.mlflow.log_params(run_parameters(asked, candidate))
        reproducible = is_reproducible(asked, rows.fit, candidate.plan, candidate.classes)
        return dg.MaterializeResult(
            value=candidate,
            metadata=_metadata(candidate, fitted, stores),
            check_results=[
                dg.AssetCheckResult(
                    check_name="reproducible",
                    passed=reproducible,
                    description="byte-identical"
                    if reproducible
                    else "two fits on the same rows differ: set a random_state",
                ),
                _compiled(fitted),
            ],
        )

    return trained_model


def _metadata(candidate: Candidate, fitted: Fitted, stores: StoresResource) -> dict[str, dg.MetadataValue]:
    return {
        "version": dg.MetadataValue.int(candidate.version),
        "mlflow_run": dg.MetadataValue.text(candidate.mlflow_run),
        "mlflow_store": dg.MetadataValue.text(stores.open().registry.tracking_uri),
        "training_rows": dg.MetadataValue.int(candidate.training_rows),
        "training_start": dg.MetadataValue.timestamp(candidate.training_start),
        "training_end": dg.MetadataValue.timestamp(candidate.training_end),
        "fit_s": dg.MetadataValue.float(candidate.fit_s),
        "pipeline_bytes": dg.MetadataValue.int(len(fitted.skops)),
        "data_hash": dg.MetadataValue.text(candidate.data_hash),
        "code_version": dg.MetadataValue.text(candidate.code_version),
    }


def _compiled(fitted: Fitted) -> dg.AssetCheckResult:
    metadata: dict[str, dg.MetadataValue] = {}
    if fitted.parity is not None:
        metadata = {
            "rows": dg.MetadataValue.int(fitted.parity.rows),
            "hard_rows": dg.MetadataValue.int(fitted.parity.hard_rows),
            "max_abs_difference": dg.MetadataValue.float(fitted.parity.max_abs_difference),
        }
    return dg.AssetCheckResult(
        check_name="compiled",
        passed=fitted.uncompiled is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"served by scikit-learn: {fitted.uncompiled}" if fitted.uncompiled else "equal to scikit-learn",
        metadata=metadata,
    )
