"""`data_health`: each window's data beside the rows that the model was trained on, with the features that stand out."""

import dagster as dg
import pandas as pd

from mlops_assets.assets.checks import check_specs, found
from mlops_assets.assets.frames import records_table
from mlops_assets.assets.freshness import freshness_of
from mlops_assets.assets.numbers import VERDICT_LEVEL, plotted
from mlops_assets.assets.partitions import partitions_of
from mlops_assets.assets.pictures import as_markdown, is_worth_pictures, png
from mlops_assets.core.monitoring.drift import DriftReport
from mlops_assets.core.monitoring.health import DataHealth
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.health_figures import distribution_figure, missing_figure
from mlops_assets.operations.monitor import Look, Monitor
from mlops_assets.resources import StoresResource

SHOWN_WINDOWS, SHOWN_FEATURES = 60, 4
_WORST = ("missing_rate", "unseen_share", "out_of_range_share")


def data_health_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that watches what comes in."""
    key = dg.AssetKey([spec.name, "data_health"])

    @dg.asset(
        key=key,
        group_name=spec.name,
        owners=[spec.owner],
        description="Missing values, unseen levels, values out of range, stuck feeds, volume and drift, and the verdict.",
        deps=[dg.AssetKey([spec.name, "live_traffic"])],
        kinds={"scipy"},
        partitions_def=partitions_of(spec),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=freshness_of(spec),
        check_specs=check_specs(
            key,
            {
                "enough_rows": "The newest window has the rows that a verdict needs.",
                "feeds_are_sound": "No feature is missing, stuck or in another unit.",
                "volume": "As many rows came as are usual for such a window.",
                "drift": "No feature that the model leans on has drifted far.",
            },
        ),
    )
    def data_health(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult:
        monitor = Monitor(spec, stores.open())
        windows, before = sorted(context.partition_keys), None
        for window in windows:
            look = monitor.data_health(window)
            verdict = look.health.verdict
            drawn = is_worth_pictures(len(windows), window == windows[-1], verdict, before)
            metadata = _metadata(look, _pictures(monitor, look) if drawn else {})
            context.add_asset_metadata(metadata, asset_key=key, partition_key=window)
            before = verdict
        return dg.MaterializeResult(check_results=data_checks(monitor.newest_data_health()))

    return data_health


def data_checks(newest: DataHealth | None) -> list[dg.AssetCheckResult]:
    """What the newest window says; late labels of an old one do not bring it back into the light."""
    if newest is None:
        return [found(name, True, "no window yet") for name in ("enough_rows", "feeds_are_sound", "volume", "drift")]
    there, report = newest.verdict not in ("insufficient data", "failed") or bool(newest.broken), newest.drift
    about = f"{newest.window}: "
    why = about + "; ".join(newest.reasons)
    return [
        found("enough_rows", there, about + f"{newest.rows} rows"),
        found("feeds_are_sound", not newest.broken, why if newest.broken else about + "sound", is_grave=True),
        found(
            "volume", report is None or not report.volume.alarm, about + (report.volume.reason if report else "no rows")
        ),
        found("drift", not newest.drifted, why if newest.drifted else about + "none that weighs"),
    ]


def _metadata(look: Look, pictures: dict[str, dg.MetadataValue]) -> dict[str, dg.MetadataValue]:
    health, report = look.health, look.health.drift
    numbers: dict[str, float] = {
        "verdict_level": VERDICT_LEVEL[health.verdict],
        "rows": health.rows,
        "broken_features": len(health.broken),
    }
    if report is not None:
        drifted = [one for one in report.features if one.alarm]
        numbers |= {
            "expected_rows": report.volume.expected,
            "drifted_features": len(drifted),
            "worst_drifted_psi": max((one.psi for one in drifted), default=0.0),
            **{f"worst_{name}": max(getattr(one, name) for one in report.features) for name in _WORST},
        }
    metadata: dict[str, dg.MetadataValue] = {
        "verdict": dg.MetadataValue.text(health.verdict),
        "why": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in health.reasons)),
        "culprits": dg.MetadataValue.text(", ".join(health.culprits) or "none"),
        **pictures,
        **plotted(numbers),
    }
    if report is not None:
        metadata["confidence"] = dg.MetadataValue.md(report.confidence)
        metadata["features"] = records_table(_features(report))
    return metadata


def _features(report: DriftReport) -> pd.DataFrame:
    """Only as wide as the UI has room; the reasons of those that stand out are in the verdict's."""
    rows = [
        (
            one.feature,
            one.severity,
            one.importance,
            max(one.psi, 0.0),
            one.missing_rate,
            one.unseen_share,
            one.out_of_range_share,
        )
        for one in report.features
    ]
    return pd.DataFrame(rows, columns=["feature", "drift", "weight", "psi", "missing", "unseen", "outside"]).round(3)


def _pictures(monitor: Monitor, look: Look) -> dict[str, dg.MetadataValue]:
    if look.profile is None or look.reference is None or look.health.drift is None:
        return {}
    shown = dict.fromkeys([*look.health.culprits, *(one.feature for one in look.health.drift.features)])
    now = distribution_figure(look.reference.profile, look.profile, list(shown)[:SHOWN_FEATURES])
    missing = missing_figure(monitor.data_history(look.health.window, SHOWN_WINDOWS))
    return {
        "now_and_reference": as_markdown("distribution", png(now)),
        "missing_by_window": as_markdown("missing", png(missing)),
    }
