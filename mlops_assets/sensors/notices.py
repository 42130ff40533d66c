"""People are told: what waits in the outbox is sent."""

from datetime import UTC, datetime

import dagster as dg

from mlops_assets.operations.notify import send_due
from mlops_assets.resources import StoresResource

LOOKS_EVERY_S = 30


def notices_sensor() -> dg.SensorDefinition:
    """The one sensor of the deployment that sends notices. A receiver that is down delays nothing but its own."""

    @dg.sensor(
        name="mlops_notices",
        minimum_interval_seconds=LOOKS_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends what people are to be told of incidents and decisions: see `mlops-assets notifications`.",
    )
    def notices(context: dg.SensorEvaluationContext, stores: StoresResource) -> dg.SkipReason:
        sent = send_due(stores.open(), datetime.now(UTC))
        for lost in sent.given_up:
            context.log.warning(f"given up: {lost}")
        told = f"{sent.arrived} arrived, {sent.to_retry} to be tried again, {len(sent.given_up)} given up"
        return dg.SkipReason("nothing is due" if not (sent.arrived or sent.to_retry or sent.given_up) else told)

    return notices
