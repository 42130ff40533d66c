"""Jobs that a person starts from the Dagster UI: back to an earlier version, and a new training. Their reasons are kept."""

from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from mlops_assets.assets.raw_data import RawDataConfig, read_as_of, read_request
from mlops_assets.core.ledger import Decision
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.by_hand import ByHand, NotPossible, describe
from mlops_assets.resources import StoresResource

_REASON = "why; it is kept in the ledger"
_MAX_RUNTIME_S = 600


class RollbackConfig(dg.Config):
    """Back to which version, and why."""

    reason: str = Field(description=_REASON)
    version: int | None = Field(
        default=None, description="any registered version with a bundle; left out: the last good one that can answer"
    )


class RetrainConfig(RawDataConfig):
    """A training otherwise than declared, and why."""

    reason: str = Field(description=_REASON)


def jobs_by_hand(spec: ModelSpec) -> list[dg.JobDefinition]:
    """`<model>_rollback`, which does it in its run, and `<model>_retrain`, which writes the wish down.

    The training itself is started by the sensor of the response, like every other: so there is one at a time, its failures are
    tried again, and its end is settled in one place. Nothing begins while that sensor is off.
    """

    @dg.op(name=f"{spec.name}_roll_back")
    def roll_back(context: dg.OpExecutionContext, config: RollbackConfig, stores: StoresResource) -> None:
        hand = _hand(spec, stores, context)
        decision = _done(lambda: hand.roll_back(config.reason, config.version))
        if decision.outcome not in ("done", "unchanged"):
            raise dg.Failure(describe(decision), allow_retries=False)
        context.log.info(describe(decision))

    @dg.op(name=f"{spec.name}_ask_for_training")
    def ask_for_training(context: dg.OpExecutionContext, config: RetrainConfig, stores: StoresResource) -> None:
        request, as_of = read_request(spec, config), read_as_of(config.as_of)
        hand = _hand(spec, stores, context)
        decision = _done(lambda: hand.retrain(config.reason, request, as_of))
        context.log.info(f"{describe(decision)}; the sensor {spec.name}_response starts it")

    tags = {"dagster/max_runtime": str(_MAX_RUNTIME_S), "dagster/max_retries": "0"}

    @dg.job(name=f"{spec.name}_rollback", tags=tags, description=f"Serves an earlier version of `{spec.name}` again.")
    def back() -> None:
        roll_back()

    @dg.job(name=f"{spec.name}_retrain", tags=tags, description=f"Asks for a training of `{spec.name}`.")
    def train() -> None:
        ask_for_training()

    return [back, train]


def _hand(spec: ModelSpec, stores: StoresResource, context: dg.OpExecutionContext) -> ByHand:
    return ByHand(spec, stores.open(), f"user:ui/run:{context.run_id}", lambda: datetime.now(UTC))


def _done(wish: Callable[[], Decision]) -> Decision:
    try:
        return wish()
    except NotPossible as error:
        raise dg.Failure(str(error), allow_retries=False) from error
