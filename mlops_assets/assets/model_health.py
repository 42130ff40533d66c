"""`model_health`: how good each window's answers were, or are thought to be while their labels are not known."""

from collections.abc import Sequence

import dagster as dg
import pandas as pd

from mlops_assets.assets.checks import check_specs, found
from mlops_assets.assets.frames import records_table
from mlops_assets.assets.freshness import freshness_of
from mlops_assets.assets.numbers import VERDICT_LEVEL, plotted
from mlops_assets.assets.partitions import partitions_of
from mlops_assets.assets.pictures import as_markdown, is_worth_pictures, png
from mlops_assets.core.monitoring.health import ModelHealth, judge_service
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.health_figures import performance_figure
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.report import write_report
from mlops_assets.resources import StoresResource

SHOWN_WINDOWS = 60


def model_health_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that watches what goes out."""
    key = dg.AssetKey([spec.name, "model_health"])

    @dg.asset(
        key=key,
        group_name=spec.name,
        owners=[spec.owner],
        description="Realised and estimated performance, scores, the former champion and the service, and the verdict.",
        deps=[dg.AssetKey([spec.name, "live_traffic"]), dg.AssetKey([spec.name, "data_health"])],
        kinds={"scipy"},
        partitions_def=partitions_of(spec),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=freshness_of(spec),
        check_specs=check_specs(
            key,
            {
                "performance": "The newest window with labels is as good as its inputs let expect.",
                "labels_arrive": "Answers whose labels are due have them.",
                "service": "Requests of the newest window were valid and were answered, but for a few.",
            },
        ),
    )
    def model_health(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult:
        opened = stores.open()
        monitor = Monitor(spec, opened)
        windows, before = sorted(context.partition_keys), None
        for window in windows:
            health = monitor.model_health(window)
            drawn = is_worth_pictures(len(windows), window == windows[-1], health.verdict, before)
            page = write_report(spec, opened, window, monitor=monitor, pictures=drawn)
            # A path, for browsers open no link from the UI to a file: it can be copied.
            shown: dict[str, dg.MetadataValue] = {"report": dg.MetadataValue.path(page)}
            if drawn:
                history = monitor.model_history(window, SHOWN_WINDOWS)
                figure = performance_figure(history, spec.monitoring.floor, spec.headline_loss)
                shown["performance_by_window"] = as_markdown("performance", png(figure))
            metadata = _metadata(spec, health, shown)
            context.add_asset_metadata(metadata, asset_key=key, partition_key=window)
            before = health.verdict
        return dg.MaterializeResult(check_results=model_checks(spec, monitor.newest_model_health(SHOWN_WINDOWS)))

    return model_health


def model_checks(spec: ModelSpec, history: Sequence[ModelHealth]) -> list[dg.AssetCheckResult]:
    """What the newest windows say, given oldest first; late labels of an old one do not bring it back into the light."""
    if not history:
        return [found(name, True, "no window yet") for name in ("performance", "labels_arrive", "service")]
    judged = next((one for one in reversed(history) if one.performance is not None), history[-1])
    due = [one for one in history if one.cohort.is_matured]
    dry = bool(due) and due[-1].cohort.coverage < spec.monitoring.min_coverage
    return [
        found(
            "performance",
            not judged.decayed,
            f"{judged.window}: {judged.reasons[0]}",
            is_grave=judged.verdict in ("unhealthy", "failed"),
        ),
        found(
            "labels_arrive",
            not dry,
            f"{due[-1].window}: {due[-1].cohort.labelled} of {due[-1].cohort.answered} answers have a label"
            if due
            else "no label is due yet",
        ),
        _service_check(history[-1]),
    ]


def _service_check(newest: ModelHealth) -> dg.AssetCheckResult:
    service, troubles = newest.service, judge_service(newest.service)
    counts = (
        f"of {service.requests} requests {service.refused} were not valid, {service.failed} failed and {service.shed} were turned "
        "away"
    )
    return found(
        "service",
        not troubles,
        f"{newest.window}: " + ("; ".join(why for _, why in troubles) or counts),
        is_grave=any(verdict == "failed" for verdict, _ in troubles),
    )


def _metadata(spec: ModelSpec, health: ModelHealth, shown: dict[str, dg.MetadataValue]) -> dict[str, dg.MetadataValue]:
    cohort, service, report = health.cohort, health.service, health.performance
    numbers: dict[str, float | None] = {
        "verdict_level": VERDICT_LEVEL[health.verdict],
        "label_coverage": cohort.coverage,
        **{name: health.realised.get(name) for name in _shown(spec)},
        f"expected_{spec.headline_loss}": None if report is None else report.expected,
        "relative_change": None if report is None else report.relative,
        "decayed": None if report is None else int(health.decayed),
        **{f"estimated_{name}": health.estimated[name].value for name in _shown(spec) if name in health.estimated},
        "mean_score": None if health.scores is None else health.scores.mean,
        "refused_requests": service.refused,
        "failed_requests": service.failed,
        "shed_requests": service.shed,
        "latency_p99_ms": service.latency_p99_ms,
    }
    metadata: dict[str, dg.MetadataValue] = {
        "verdict": dg.MetadataValue.text(health.verdict),
        "why": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in health.reasons)),
        **shown,
        **plotted(numbers),
    }
    if health.realised or health.estimated:
        metadata["metrics"] = records_table(_metrics(health))
    return metadata


def _shown(spec: ModelSpec) -> tuple[str, ...]:
    return ("mae",) if spec.task == "regression" else ("roc_auc", "brier", "calibration_error")


def _metrics(health: ModelHealth) -> pd.DataFrame:
    names = [*health.reference, *(name for name in health.estimated if name not in health.reference)]
    rows = []
    for name in names:
        estimate = health.estimated.get(name)
        rows.append(
            (
                name,
                health.reference.get(name),
                health.realised.get(name),
                estimate and estimate.value,
                estimate and estimate.standard_error,
            )
        )
    return pd.DataFrame(rows, columns=["metric", "held_out", "realised", "estimated", "std_error"])
