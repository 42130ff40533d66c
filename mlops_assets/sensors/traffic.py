"""New traffic and new labels become monitoring runs: each window once for each new content, restarts and lost cursors included."""

from datetime import UTC, datetime

import dagster as dg

from mlops_assets.core.monitoring.requests import PastRun, Request
from mlops_assets.core.monitoring.watch import LOOKS_EVERY
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.jobs import RANGE_END, RANGE_START
from mlops_assets.operations.watching import Tick
from mlops_assets.resources import StoresResource

MONITORING_TAG = "mlops_assets/monitoring"
CONTENT_TAG = "mlops_assets/content"
MOST_REQUESTS = 10
_PAST_RUNS = 200
_PARTITION = "dagster/partition"
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_UNDERWAY = tuple(status for status in dg.DagsterRunStatus if status not in _ENDED)


def traffic_sensor(spec: ModelSpec) -> dg.SensorDefinition:
    """The sensor that takes sealed log segments into the lake and asks for a run over the windows that have changed.

    What it knows comes from the lake and from the runs of `<model>_monitoring`, also those started by hand; it has no memory.
    """
    job = f"{spec.name}_monitoring"

    @dg.sensor(
        name=f"{spec.name}_traffic",
        job_name=job,
        minimum_interval_seconds=int(LOOKS_EVERY.total_seconds()),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks for new traffic and labels of `{spec.name}` and asks for the windows that they touch.",
    )
    def traffic(context: dg.SensorEvaluationContext, stores: StoresResource) -> dg.SensorResult | dg.SkipReason:
        with Tick(spec, stores.open(), lambda: datetime.now(UTC)) as tick:
            # Asked before the runs that have ended, so that no run can be missing from both.
            underway = context.instance.get_run_records(dg.RunsFilter(job_name=job, statuses=_UNDERWAY), limit=1)
            plan = tick.look(_past_runs(context.instance, job))
            if underway:
                return dg.SkipReason(f"run {underway[0].dagster_run.run_id} is not over yet")
            if not plan.requests:
                return dg.SkipReason(_why_nothing(plan.given_up))
            return dg.SensorResult([_run_request(spec, one) for one in plan.requests[:MOST_REQUESTS]])

    return traffic


def _past_runs(instance: dg.DagsterInstance, job: str) -> list[PastRun]:
    records = instance.get_run_records(dg.RunsFilter(job_name=job, statuses=_ENDED), limit=_PAST_RUNS)
    past = []
    for record in records:
        run = record.dagster_run
        first = run.tags.get(RANGE_START) or run.tags.get(_PARTITION)
        last = run.tags.get(RANGE_END) or run.tags.get(_PARTITION)
        if first is not None and last is not None:
            succeeded = run.status == dg.DagsterRunStatus.SUCCESS
            past.append(PastRun(first, last, run.tags.get(CONTENT_TAG, ""), succeeded))
    return past


def _run_request(spec: ModelSpec, request: Request) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{spec.name}/{request.first}/{request.last}/{request.content}/{request.attempt}",
        tags={
            RANGE_START: request.first,
            RANGE_END: request.last,
            MONITORING_TAG: spec.name,
            CONTENT_TAG: request.content,
            "dagster/max_retries": "0",  # a run that fails or dies is asked for again here, and only here
        },
    )


def _why_nothing(given_up: tuple[Request, ...]) -> str:
    if not given_up:
        return "nothing new"
    stretches = ", ".join(f"{one.first} to {one.last}" for one in given_up)
    return f"nothing new; given up after {given_up[0].attempt - 1} failed runs: {stretches}. Run the job by hand when it is mended"
