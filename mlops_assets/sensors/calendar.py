"""Trainings by the calendar, where a declaration wants them."""

from datetime import UTC, datetime

import dagster as dg

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.by_calendar import train_by_calendar
from mlops_assets.resources import StoresResource
from mlops_assets.sensors.response import run_request


def calendar_schedules(spec: ModelSpec) -> list[dg.ScheduleDefinition]:
    """The schedule of `response.schedule`; none where there is none. Nothing is trained while the model is frozen or retired."""
    if spec.response.schedule is None:
        return []

    @dg.schedule(
        name=f"{spec.name}_calendar",
        job_name=f"{spec.name}_lifecycle",
        cron_schedule=spec.response.schedule,
        execution_timezone=spec.monitoring.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Trains a candidate of `{spec.name}` by the calendar; the gates decide as ever.",
    )
    def calendar(context: dg.ScheduleEvaluationContext, stores: StoresResource) -> dg.RunRequest | dg.SkipReason:
        actor, due = f"schedule:{spec.name}_calendar", context.scheduled_execution_time
        wanted = train_by_calendar(spec, stores.open(), due, lambda: datetime.now(UTC), actor)
        return dg.SkipReason(wanted) if isinstance(wanted, str) else run_request(wanted)

    return [calendar]
