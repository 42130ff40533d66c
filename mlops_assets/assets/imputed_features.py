"""`imputed_features`: how much is missing, the alarm, the plan that fills it, and the frame as the plan makes it."""

import dagster as dg
import pandas as pd

from mlops_assets.assets.frames import FrameTypes, column_schema, records_table
from mlops_assets.assets.pools import lifecycle_pool
from mlops_assets.core.imputation import PlanImputer, encode_plan
from mlops_assets.core.manifest import ImputationPlan
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import training_as_of
from mlops_assets.core.training_request import requested
from mlops_assets.operations.train import plan_imputation

PLAN = "imputation_plan"


def imputed_features_asset(spec: ModelSpec, types: FrameTypes) -> dg.AssetsDefinition:
    """The asset that plans the imputation from training rows and shows its result."""

    @dg.asset(
        key=[spec.name, "imputed_features"],
        group_name=spec.name,
        pool=lifecycle_pool(spec),
        owners=[spec.owner],
        description="Features without holes, as the imputation plan fills them; the plan becomes the first step of the model.",
        ins={"validated_features": dg.AssetIn([spec.name, "validated_features"], dagster_type=types.validated)},
        dagster_type=types.imputed,
        kinds={"pandas", "scikitlearn"},
        check_specs=[
            dg.AssetCheckSpec(
                "missing_rate",
                asset=[spec.name, "imputed_features"],
                description=f"No feature is missing in more than {spec.imputation.alarm_above:.0%} of the training rows.",
            ),
            dg.AssetCheckSpec(
                "no_feature_dropped",
                asset=[spec.name, "imputed_features"],
                description=f"No feature is nearly empty (more than {spec.imputation.drop_above:.0%} missing).",
            ),
        ],
    )
    def imputed_features(validated_features: pd.DataFrame) -> dg.MaterializeResult:
        asked = requested(spec, validated_features)
        plan, rows = plan_imputation(asked, validated_features, training_as_of(validated_features))
        imputer = PlanImputer.from_plan(plan, asked)
        imputed = imputer.fit_transform(rows.whole[list(spec.feature_names)])
        imputed.attrs = {**validated_features.attrs, PLAN: encode_plan(plan)}
        table = _plan_table(plan)
        return dg.MaterializeResult(
            value=imputed,
            metadata={
                "dagster/row_count": len(imputed),
                "dagster/column_schema": dg.MetadataValue.table_schema(column_schema(imputed, spec)),
                "worst_missing_rate": max(feature.missing_rate for feature in plan.features),
                "alarms": len(plan.alarms),
                "dropped": len(plan.dropped),
                "knn_donors": len(plan.donors),
                "plan": records_table(table),
            },
            check_results=[_missing_rate(spec, plan), _no_feature_dropped(spec, plan)],
        )

    return imputed_features


def _plan_table(plan: ImputationPlan) -> pd.DataFrame:
    rows = [
        (one.name, one.missing_rate, one.strategy, one.value, "alarm" if one.alarm else "") for one in plan.features
    ]
    return pd.DataFrame(rows, columns=["feature", "missing_rate", "strategy", "value", "alarm"])


def _missing_rate(spec: ModelSpec, plan: ImputationPlan) -> dg.AssetCheckResult:
    alarms = [f"{one.name} {one.missing_rate:.1%}: {one.strategy}" for one in plan.features if one.alarm]
    return dg.AssetCheckResult(
        check_name="missing_rate",
        passed=not alarms,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(alarms) or f"no feature is missing in more than {spec.imputation.alarm_above:.0%}",
        metadata={
            "limit": spec.imputation.alarm_above,
            **{one.name: one.missing_rate for one in plan.features if one.alarm},
        },
    )


def _no_feature_dropped(spec: ModelSpec, plan: ImputationPlan) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="no_feature_dropped",
        passed=not plan.dropped,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"dropped: {', '.join(plan.dropped)}" if plan.dropped else "all features are used",
        metadata={"limit": spec.imputation.drop_above, "dropped": len(plan.dropped)},
    )
