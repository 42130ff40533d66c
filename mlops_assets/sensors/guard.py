"""A fresh release that fails in service is taken back within seconds."""

from datetime import UTC, datetime

import dagster as dg

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.guarding import guard_release, replace_lost
from mlops_assets.operations.mending import mend_champion
from mlops_assets.resources import StoresResource

LOOKS_EVERY_S = 5


def guard_sensor(spec: ModelSpec) -> dg.SensorDefinition:
    """The sensor that watches a fresh release by what its workers count, and goes back where it fails.

    It also puts the champion's bundle back where a worker cannot load it, and goes back where it is lost.
    """

    @dg.sensor(
        name=f"{spec.name}_guard",
        minimum_interval_seconds=LOOKS_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Rolls `{spec.name}` back at once when a fresh release fails, or is too slow, in service.",
    )
    def guard(context: dg.SensorEvaluationContext, stores: StoresResource) -> dg.SkipReason:
        opened, actor = stores.open(), f"sensor:{spec.name}_guard"
        mended = mend_champion(spec, opened, _now())
        if mended is not None:
            context.log.warning(mended.told)
            if mended.is_lost:
                replace_lost(spec, opened, mended, _now, actor)
        found = guard_release(spec, opened, _now, actor)
        return dg.SkipReason(found or (mended and mended.told) or "no fresh release fails")

    return guard


def _now() -> datetime:
    return datetime.now(UTC)
