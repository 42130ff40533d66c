"""A fresh release that fails in service is taken back within seconds."""

from datetime import UTC, datetime

import dagster as dg

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.guarding import guard_release
from mlops_assets.operations.mending import mend_champion
from mlops_assets.resources import StoresResource

LOOKS_EVERY_S = 5


def guard_sensor(spec: ModelSpec) -> dg.SensorDefinition:
    """The sensor that watches a fresh release by what its workers count, and goes back where it fails.

    It also puts the champion's bundle back where no worker can load it.
    """

    @dg.sensor(
        name=f"{spec.name}_guard",
        minimum_interval_seconds=LOOKS_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Rolls `{spec.name}` back at once when a fresh release fails, or is too slow, in service.",
    )
    def guard(context: dg.SensorEvaluationContext, stores: StoresResource) -> dg.SkipReason:
        opened = stores.open()
        mended = mend_champion(spec, opened, datetime.now(UTC))
        if mended is not None:
            context.log.warning(mended)
        found = guard_release(spec, opened, lambda: datetime.now(UTC), f"sensor:{spec.name}_guard")
        return dg.SkipReason(found or mended or "no fresh release fails")

    return guard
