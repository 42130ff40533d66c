"""The proof that a published plan is what answers, and taking the plan back where it is not."""

from datetime import UTC, datetime

from mlflow.exceptions import MlflowException

from mlops_assets.core.rollout import Origin, ReleasePlan, reversal
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.smoke import SmokeTest, smoke_test
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE, NotLive, RefusedByWorker, wait_until_live
from mlops_assets.stores.registry import AliasMove
from mlops_assets.stores.releases import ReleaseConflict


class DoesNotAnswer(RuntimeError):
    """What was published is refused by a worker, or answers wrongly."""


class NotEverywhere(DoesNotAnswer):
    """What was published is not loaded by every worker yet, and nothing worse is known of it."""


class AliasNotMoved(RuntimeError):
    """The registry is out of reach: its alias still names the former champion, whoever answers."""


def confirm(spec: ModelSpec, stores: Stores, plan: ReleasePlan) -> tuple[int, SmokeTest]:
    """Wait until every live worker has the plan, then ask for golden rows; returns how many workers have it.

    A challenger that comes in with the plan must be loaded by every worker too; one that was on trial before is no reason to take
    another change back.

    Raises
    ------
    DoesNotAnswer
        When a worker refuses the plan or its challenger, or an answer is not what the plan says.
    NotEverywhere
        When the time is up before every worker has it.
    """
    try:
        workers = wait_until_live(stores.home, spec.name, plan.release, spec.release.confirm_timeout.total_seconds())
    except RefusedByWorker as error:
        raise DoesNotAnswer(str(error)) from error
    except NotLive as error:
        raise NotEverywhere(str(error)) from error
    _require_challenger(stores, plan)
    smoke = smoke_test(stores, plan)
    if not smoke.passed:
        raise DoesNotAnswer(smoke.why)
    return workers, smoke


def _require_challenger(stores: Stores, plan: ReleasePlan) -> None:
    """Raises `DoesNotAnswer` where a worker has the plan without the challenger that it brings in."""
    challenger = plan.challenger
    if challenger is None:
        return
    before = stores.releases.get(plan.model, plan.previous).challenger if plan.previous else None
    if before is not None and (before.version, before.bundle) == (challenger.version, challenger.bundle):
        return
    for worker in stores.workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE):
        loaded = worker.models.get(plan.model)
        # A worker's report holds a plan together with all that it has loaded of it.
        if loaded is not None and loaded.release == plan.release and loaded.challenger is None:
            why = loaded.refused.get("challenger", "it has not been loaded")
            raise DoesNotAnswer(f"worker {worker.worker} refuses the challenger, version {challenger.version}: {why}")


def take_back(
    stores: Stores, plan: ReleasePlan, why: str, decided_by: str, decided_at: datetime, *, withdraw: bool
) -> str:
    """Publish the plan that says again what the one before had said; tells what was done.

    Parameters
    ----------
    withdraw
        The champion that was tried never returns.
    """
    if plan.previous == 0:
        return "there is no earlier release to put back"
    if stores.releases.current(plan.model) != plan:
        return "another release has been published since"
    former = stores.releases.get(plan.model, plan.previous)
    origin = Origin(plan.rollout, f"release {plan.release} refused: {why}", decided_by, decided_at)
    restored = reversal(plan, former, origin, withdraw=withdraw)
    try:
        stores.releases.publish(restored)
    except ReleaseConflict as conflict:
        return f"it could not be taken back: {conflict}"
    return f"version {restored.champion.version} serves again with release {restored.release}"


def move_champion(stores: Stores, plan: ReleasePlan) -> None:
    """Point the registry's alias at the champion of a plan; done already, nothing happens.

    Raises
    ------
    AliasNotMoved
        When the registry is out of reach, or does not know the version.
    """
    move = AliasMove("champion", plan.champion.version, plan.decided_at, plan.reason)
    try:
        stores.registry.move_alias(plan.model, move)
    except MlflowException as error:
        raise AliasNotMoved(
            f"the alias 'champion' of {plan.model!r} could not be moved to version {move.version}: {error}"
        ) from error
