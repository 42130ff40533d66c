"""Trials go on by themselves: each look at the evidence, and what it comes to, once, restarts included."""

from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg

from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.trials.facts import Trial, TrialLooked
from mlops_assets.operations.rollouts.advance import Rollouts
from mlops_assets.resources import StoresResource
from mlops_assets.sensors.runs import InstanceRuns

LOOKS_EVERY_S = 10
Tell = Callable[[ModelSpec, Trial, tuple[TrialLooked, ...]], dg.AssetMaterialization]


def rollout_sensor(spec: ModelSpec, tell: Tell) -> dg.SensorDefinition:
    """The sensor that looks at the version on trial, and promotes or dismisses it.

    All it knows comes from the ledger, the stores and the log. Its cursor saves it from looking at the same evidence again; lost,
    it costs that look and nothing else.

    Parameters
    ----------
    tell
        Makes what the UI shows of a look, from the trial and all its looks.
    """

    @dg.sensor(
        name=f"{spec.name}_rollout",
        minimum_interval_seconds=LOOKS_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Tries new versions of `{spec.name}` beside the champion: see `mlops-assets rollouts {spec.name}`.",
    )
    def rollout(context: dg.SensorEvaluationContext, stores: StoresResource) -> dg.SensorResult:
        runs = InstanceRuns(context.instance, spec.name)
        rollouts = Rollouts(spec, stores.open(), _now, f"sensor:{spec.name}_rollout", runs)
        advanced = rollouts.advance(context.cursor or "")
        trial, events = advanced.trial, []
        if trial is not None and advanced.looked is not None:
            events.append(tell(spec, trial, rollouts.looks(trial)))
        return dg.SensorResult(skip_reason=advanced.said, cursor=advanced.stamp, asset_events=events)

    return rollout


def _now() -> datetime:
    return datetime.now(UTC)
