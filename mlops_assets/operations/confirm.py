"""The proof that a published plan is what answers, and taking the plan back where it is not."""

import time
from dataclasses import replace
from datetime import UTC, datetime

from mlflow.exceptions import MlflowException

from mlops_assets.core.rollout import Origin, ReleasePlan, reversal
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.smoke import NotAnswered, SmokeTest, smoke_test
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE, NotLive, RefusedByWorker, wait_until_live
from mlops_assets.stores.registry import AliasMove
from mlops_assets.stores.releases import ReleaseConflict

_PAUSE_S = 0.2


class DoesNotAnswer(RuntimeError):
    """What was published is refused by a worker, or answers wrongly."""


class NotEverywhere(RuntimeError):
    """What was published is not loaded by every worker yet, or could not be asked for, and nothing worse is known of it."""


class AliasNotMoved(RuntimeError):
    """The registry is out of reach: its alias still names the former champion, whoever answers."""


def confirm(spec: ModelSpec, stores: Stores, plan: ReleasePlan) -> tuple[int, SmokeTest]:
    """Wait until every live worker has the plan, then ask for golden rows; returns how many workers have it.

    A challenger that comes in with the plan must be loaded by every worker too; one that was on trial before is no reason to take
    another change back. Nor are wrong answers a reason against a plan under which the same is answered as before: then the test
    that is returned has not passed; or a worker that refuses its champion, which it had to load before: it is waited for, and
    `mending.py` puts the bundle back. A service that is too busy to be asked is asked again, as long as workers are waited for.

    Raises
    ------
    DoesNotAnswer
        When a worker refuses the plan or its challenger, or an answer is not what the plan says.
    NotEverywhere
        When the time is up before every worker has it and the service could be asked.
    """
    patience_s = spec.release.confirm_timeout.total_seconds()
    until = time.monotonic() + patience_s
    workers = _wait(stores, plan, until)
    while True:
        try:
            _require_challenger(stores, plan)
            smoke = smoke_test(stores, plan)
            break
        except NotAnswered as error:
            if (newest := _followed_by(stores, plan)) is not None:
                smoke = SmokeTest(True, f"release {newest} has followed since, and is asked for instead")
                break
            if time.monotonic() >= until:
                raise NotEverywhere(str(error)) from error
            time.sleep(_PAUSE_S)
    if not smoke.passed and _answers_change(stores, plan):
        raise DoesNotAnswer(smoke.why)
    missing = _gone_without(stores, plan)
    return workers, replace(smoke, why="; ".join((smoke.why, *missing))) if missing else smoke


def answer_alike(one: ReleasePlan, other: ReleasePlan) -> bool:
    """Is the same answered under both, a challenger's share aside?"""
    return _answer_of(one) == _answer_of(other)


def _answer_of(plan: ReleasePlan) -> tuple[object, ...]:
    return plan.champion, plan.masked, plan.fallen_back, plan.fallback_value, plan.retired


def _wait(stores: Stores, plan: ReleasePlan, until: float) -> int:
    """Until every live worker has the plan; how many there are."""
    while True:
        left_s = max(until - time.monotonic(), 0.0)
        try:
            return wait_until_live(stores.home, plan.model, plan.release, left_s)
        except RefusedByWorker as error:
            if _answers_change(stores, plan):
                raise DoesNotAnswer(str(error)) from error
            if not left_s:
                told = f"version {plan.champion.version} answered before, and it is no fault of this plan that it is not loaded"
                raise NotEverywhere(f"{error}; {told}") from error
            time.sleep(_PAUSE_S)
        except NotLive as error:
            raise NotEverywhere(str(error)) from error


def _gone_without(stores: Stores, plan: ReleasePlan) -> tuple[str, ...]:
    """Whom a plan names beside its champion and a worker has not loaded: they are no reason to hold it up, and to be known of."""
    beside = {"challenger": plan.challenger, "standby": plan.standby, "last_good": plan.last_good}
    said: dict[str, None] = {}
    for worker in stores.workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE):
        loaded = worker.models.get(plan.model)
        if loaded is None or loaded.release != plan.release:
            continue
        for place, why in loaded.refused.items():
            one = beside.get(place)
            if one is not None:
                said[f"without the {place.replace('_', ' ')} version, {one.version}: {why}"] = None
    return tuple(said)


def _followed_by(stores: Stores, plan: ReleasePlan) -> int | None:
    current = stores.releases.current(plan.model)
    return None if current is None or current.release == plan.release else current.release


def _answers_change(stores: Stores, plan: ReleasePlan) -> bool:
    """Does anybody but a challenger's share get another answer under this plan than under the one before?"""
    if not plan.previous:
        return True
    return not answer_alike(stores.releases.get(plan.model, plan.previous), plan)


def _require_challenger(stores: Stores, plan: ReleasePlan) -> None:
    """Raises `DoesNotAnswer` where a worker refuses the challenger that the plan brings in, and `NotAnswered` where it lacks it."""
    challenger = plan.challenger
    if challenger is None:
        return
    before = stores.releases.get(plan.model, plan.previous).challenger if plan.previous else None
    if before is not None and (before.version, before.bundle) == (challenger.version, challenger.bundle):
        return
    for worker in stores.workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE):
        loaded = worker.models.get(plan.model)
        if loaded is None or loaded.release != plan.release or loaded.challenger is not None:
            continue
        why = loaded.refused.get("challenger")
        if why is None:
            raise NotAnswered(f"worker {worker.worker} has not loaded the challenger, version {challenger.version}")
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
