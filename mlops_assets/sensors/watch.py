"""The monitor is watched too: when it stops, fails, falls behind, or is fed nothing, a check says so."""

from datetime import UTC, datetime

import dagster as dg

from mlops_assets.core.monitoring.watch import MONITOR_IS_ALIVE, Sign, told
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.watching import watch_monitor
from mlops_assets.resources import StoresResource


def watch_sensor(spec: ModelSpec) -> dg.SensorDefinition:
    """The sensor that reports on the monitor, as a check on `live_traffic`, whenever the outcome is another one.

    It reports again after each run: a run makes the same check, and what one by hand has found while the monitor was off would
    stand for ever.
    """
    key = dg.AssetKey([spec.name, "live_traffic"])

    @dg.sensor(
        name=f"{spec.name}_watch",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Reports when the monitor of `{spec.name}` stops, fails or falls behind, and when traffic or labels dry up.",
    )
    def watch(context: dg.SensorEvaluationContext, stores: StoresResource) -> dg.SensorResult | dg.SkipReason:
        signs = watch_monitor(spec, stores.open(), datetime.now(UTC))
        made = context.instance.get_latest_materialization_event(key)
        outcome = ",".join(sign.trouble for sign in signs) or "alive"
        reported = f"{outcome} {made.run_id if made is not None else 'never run'}"
        if reported == context.cursor:
            return dg.SkipReason(told(signs))
        return dg.SensorResult(asset_events=[_evaluation(key, signs)], cursor=reported)

    return watch


def _evaluation(key: dg.AssetKey, signs: tuple[Sign, ...]) -> dg.AssetCheckEvaluation:
    grave = any(sign.grave for sign in signs)
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=MONITOR_IS_ALIVE,
        passed=not signs,
        severity=dg.AssetCheckSeverity.ERROR if grave else dg.AssetCheckSeverity.WARN,
        description=told(signs),
        metadata={"signs": ", ".join(sign.trouble for sign in signs)},
    )
