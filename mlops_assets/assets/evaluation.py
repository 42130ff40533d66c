"""`evaluation`: the candidate on the held-out rows, and one blocking check for every declared gate."""

import io

import dagster as dg
import pandas as pd
from PIL import Image

from mlops_assets.assets.documents import CANDIDATE, EVALUATION
from mlops_assets.assets.frames import FrameTypes, records_table
from mlops_assets.assets.pictures import as_markdown, evaluation_figures, png
from mlops_assets.assets.pools import lifecycle_pool
from mlops_assets.core.evaluation import Evaluation, GateResult
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training_request import requested
from mlops_assets.operations.attempts import runs_of
from mlops_assets.operations.carry_out import DECISION_TAG
from mlops_assets.operations.evaluate import Judgement, evaluate
from mlops_assets.operations.train import Candidate
from mlops_assets.resources import StoresResource, TrackedRun, TrackingResource


def evaluation_asset(spec: ModelSpec, types: FrameTypes) -> dg.AssetsDefinition:
    """The asset that judges the candidate."""
    key = dg.AssetKey([spec.name, "evaluation"])

    @dg.asset(
        key=key,
        group_name=spec.name,
        pool=lifecycle_pool(spec),
        owners=[spec.owner],
        description="The candidate on the held-out rows: metrics, slices, the champion on the same rows, and the gates.",
        ins={
            "validated_features": dg.AssetIn([spec.name, "validated_features"], dagster_type=types.validated),
            "trained_model": dg.AssetIn([spec.name, "trained_model"], dagster_type=CANDIDATE),
        },
        dagster_type=EVALUATION,
        kinds={"scikitlearn"},
        check_specs=[
            dg.AssetCheckSpec(gate.name, asset=key, blocking=True, description=gate.rule) for gate in spec.gates
        ],
    )
    def evaluation(
        context: dg.AssetExecutionContext,
        stores: StoresResource,
        tracking: TrackingResource,
        validated_features: pd.DataFrame,
        trained_model: Candidate,
    ) -> dg.MaterializeResult:
        run = tracking.run(context, spec.name)
        asked = requested(spec, validated_features)
        opened, decision = stores.open(), context.run.tags.get(DECISION_TAG, "")
        attempts = runs_of(opened, spec.name, f"run:{context.run.run_id}", decision)
        judgement = evaluate(asked, opened, validated_features, trained_model, attempts=attempts)
        pictures = {
            name: png(figure)
            for name, figure in evaluation_figures(
                spec, judgement.judged, judgement.evaluation, trained_model.classes
            ).items()
        }
        _track(run, judgement, pictures)
        return dg.MaterializeResult(
            value=judgement.evaluation,
            metadata=_metadata(judgement.evaluation, pictures),
            check_results=[_gate_check(gate) for gate in judgement.evaluation.gates],
        )

    return evaluation


def _track(run: TrackedRun, judgement: Judgement, pictures: dict[str, bytes]) -> None:
    evaluation = judgement.evaluation
    values = {name: interval.value for name, interval in evaluation.metrics.items()}
    run.mlflow.log_metrics(
        {**values, "latency_ms": evaluation.latency_ms, "gates_failed": sum(not one.passed for one in evaluation.gates)}
    )
    run.mlflow.log_dict(
        {"slices": [(one.feature, one.level, one.rows, one.metrics) for one in evaluation.slices]}, "slices.json"
    )
    for name, picture in pictures.items():
        run.mlflow.log_image(Image.open(io.BytesIO(picture)), f"{name}.png")


def _metadata(evaluation: Evaluation, pictures: dict[str, bytes]) -> dict[str, dg.MetadataValue]:
    metrics = pd.DataFrame(
        [(name, one.value, one.low, one.high, evaluation.baseline[name]) for name, one in evaluation.metrics.items()],
        columns=["metric", "value", "low", "high", "trivial_model"],
    )
    gates = pd.DataFrame(
        [("passed" if one.passed else "FAILED", one.gate, one.why) for one in evaluation.gates],
        columns=["verdict", "gate", "why"],
    )
    metadata: dict[str, dg.MetadataValue] = {
        "verdict": dg.MetadataValue.text("passed" if evaluation.passed else "refused"),
        "rows": dg.MetadataValue.int(evaluation.rows),
        "latency_ms": dg.MetadataValue.float(_rounded(evaluation.latency_ms)),
        "compared_with": dg.MetadataValue.text(evaluation.compared_with),
        "gates": records_table(gates),
        "metrics": records_table(metrics),
        **{name: dg.MetadataValue.float(_rounded(one.value)) for name, one in list(evaluation.metrics.items())[:6]},
        **{name: as_markdown(name, picture) for name, picture in pictures.items()},
    }
    if evaluation.comparisons:
        metadata["against_champion"] = records_table(
            pd.DataFrame(
                [
                    (one.metric, one.rows, one.champion, one.candidate, one.loss.value, one.loss.low, one.loss.high)
                    for one in evaluation.comparisons
                ],
                columns=["metric", "rows", "champion", "candidate", "worse_by", "low", "high"],
            )
        )
    if evaluation.slices:
        slices = [
            {"feature": one.feature, "level": one.level, "rows": one.rows, **one.metrics} for one in evaluation.slices
        ]
        metadata["slices"] = records_table(pd.DataFrame(slices))
    return metadata


def _gate_check(gate: GateResult) -> dg.AssetCheckResult:
    numbers = {"value": gate.value, "limit": gate.limit, "margin": gate.margin}
    return dg.AssetCheckResult(
        check_name=gate.gate,
        passed=gate.passed,
        description=gate.why,
        metadata={
            name: dg.MetadataValue.float(_rounded(value)) for name, value in numbers.items() if value is not None
        },
    )


def _rounded(value: float) -> float:
    """Six significant digits: what a person reads."""
    return float(f"{value:.6g}")
