"""`live_traffic`: what the service has answered, and the labels that have come since, one table for each window of event time."""

from datetime import UTC, datetime

import dagster as dg

from mlops_assets.assets.checks import check_specs, found
from mlops_assets.assets.numbers import plotted
from mlops_assets.assets.partitions import partitions_of
from mlops_assets.core.live_traffic import LiveWindow
from mlops_assets.core.monitoring.watch import MONITOR_IS_ALIVE, told
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.live_traffic import compact, ingest, newest_window, quarantined_since, window_path
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.watching import watch_monitor
from mlops_assets.resources import StoresResource


def live_traffic_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that turns logged answers and labels into tables. A table that came of nothing is a table without rows."""
    key = dg.AssetKey([spec.name, "live_traffic"])

    @dg.asset(
        key=key,
        group_name=spec.name,
        owners=[spec.owner],
        description=f"Answers of `{spec.name}` and their labels, as the service logged them, one table a {spec.monitoring.window}.",
        kinds={"parquet"},
        partitions_def=partitions_of(spec),
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL),
        check_specs=check_specs(
            key,
            {
                "readable": "Since the newest window began nothing was put aside that cannot be read or belongs to no window.",
                "traffic_arrives": "In the newest window requests were answered.",
                MONITOR_IS_ALIVE: "What comes in is looked at, and traffic and labels go on coming. A sensor reports every change.",
            },
        ),
    )
    def live_traffic(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult:
        opened = stores.open()
        ingest(opened, [spec])
        for window in sorted(context.partition_keys):
            about = compact(spec, opened, window)
            path = window_path(spec, opened, window)
            context.add_asset_metadata(_metadata(about, path), asset_key=key, partition_key=window)
        newest = newest_window(spec, opened)
        checks = [_readable(spec, opened, newest), _traffic_arrives(newest), _monitor_is_alive(spec, opened)]
        return dg.MaterializeResult(check_results=checks)

    return live_traffic


def _metadata(about: LiveWindow, path: str) -> dict[str, dg.MetadataValue]:
    numbers = {
        "dagster/row_count": about.rows,
        "answered": about.answered,
        "labelled": about.labelled,
        "refused": about.refused,
        "failed": about.failed,
        "shed": about.shed,
        "imputed_rows": about.imputed_rows,
        "out_of_domain_rows": about.out_of_domain_rows,
        "coverage": about.coverage,
        "latency_p50_ms": about.latency_p50_ms,
        "latency_p99_ms": about.latency_p99_ms,
    }
    return {
        **plotted(numbers),
        "content": dg.MetadataValue.text(about.content),
        "path": dg.MetadataValue.path(path),
    }


def _readable(spec: ModelSpec, stores: Stores, newest: LiveWindow | None) -> dg.AssetCheckResult:
    kept = quarantined_since(spec, stores, None if newest is None else newest.first_served_at)
    reasons = kept["reason"].value_counts()
    words = "; ".join(f"{count} put aside: {reason}" for reason, count in reasons.head(5).items())
    return found("readable", kept.empty, words or "nothing was put aside", metadata={"quarantined": len(kept)})


def _traffic_arrives(newest: LiveWindow | None) -> dg.AssetCheckResult:
    answered, rows = (0, 0) if newest is None else (newest.answered, newest.rows)
    where = (
        "no window has traffic yet"
        if newest is None
        else f"{answered} of {rows} requests in {newest.window} were answered"
    )
    return found("traffic_arrives", answered > 0, where, metadata={"answered": answered, "rows": rows})


def _monitor_is_alive(spec: ModelSpec, stores: Stores) -> dg.AssetCheckResult:
    signs = watch_monitor(spec, stores, datetime.now(UTC))
    return found(
        MONITOR_IS_ALIVE, not signs, told(signs), metadata={"signs": ", ".join(sign.trouble for sign in signs)}
    )
