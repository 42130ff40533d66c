"""What the monitors find is answered: decisions are made, written down, and carried out, each once, restarts included."""

from datetime import UTC, datetime

import dagster as dg

from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.carry_out import Carrier, TrainingWanted
from mlops_assets.operations.look import Looked, look
from mlops_assets.operations.tracked_runs import end_killed
from mlops_assets.resources import StoresResource
from mlops_assets.sensors.runs import InstanceRuns

LOOKS_EVERY_S = 10


def response_sensor(spec: ModelSpec) -> dg.SensorDefinition:
    """The sensor that settles what has ended, looks at what is new, and does what is due.

    All it knows comes from the ledger, the stores and the recorded runs. Its cursor saves it from comparing versions again when
    nothing has changed; lost, it costs that comparison and nothing else.
    """
    actor = f"sensor:{spec.name}_response"

    @dg.sensor(
        name=f"{spec.name}_response",
        job_name=f"{spec.name}_lifecycle",
        minimum_interval_seconds=LOOKS_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Decides what to do about `{spec.name}`, and does it: see `mlops-assets decisions {spec.name}`.",
    )
    def response(context: dg.SensorEvaluationContext, stores: StoresResource) -> dg.SensorResult:
        opened, runs = stores.open(), InstanceRuns(context.instance, spec.name)
        carrier = Carrier(spec, opened, runs, _now, actor)
        end_killed(opened, spec.name, runs.is_over)
        carrier.tell_of_runs()
        carrier.carry_on()
        looked = look(spec, opened, _now, actor, before=context.cursor or "")
        wanted = [run_request(one) for one in carrier.carry_on()]
        said = None if wanted else _why_nothing(carrier, looked)
        return dg.SensorResult(run_requests=wanted, skip_reason=said, cursor=looked.stamp)

    return response


def run_request(training: TrainingWanted) -> dg.RunRequest:
    """The lifecycle run of a decision's attempt."""
    return dg.RunRequest(
        run_key=training.key,
        # A run that fails or dies is asked for again here, and only here.
        tags={**training.tags, "dagster/max_retries": "0"},
        run_config=training.config(),
    )


def _why_nothing(carrier: Carrier, looked: Looked) -> str:
    waiting = [one for one in carrier.record.open_decisions if one.waits_for_approval]
    if waiting:
        names = ", ".join(f"{one.what.action} ({one.id})" for one in waiting)
        return f"{names} waits: mlops-assets approve {waiting[0].id} --reason ..., or reject"
    for one in carrier.record.open_decisions:
        if (why := carrier.held(one)) is not None:
            return f"{one.what.action} ({one.id}) waits: {why}"
    if looked.decision is None:
        return "no window has been judged yet"
    return f"{looked.window}: {looked.decision.action}: {looked.decision.reason}"


def _now() -> datetime:
    return datetime.now(UTC)
