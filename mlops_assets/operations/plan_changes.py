"""Carrying a change of the release plan out: published once, proven by the workers, taken back where they refuse it.

Which change is the business of `rollback.py`, and how the next plan looks that of `core/rollout`. Callers wait for the plan: what
only its proof needs is imported when the plan is out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from mlops_assets.core.rollout import BreakerLimits, Origin, ReleasePlan, limited, outcome_of
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.releases import ReleaseConflict

if TYPE_CHECKING:
    from mlops_assets.core.spec import ModelSpec
    from mlops_assets.operations.smoke import SmokeTest

History = Sequence[ReleasePlan]
TRIES = 5  # to publish a plan that others get ahead of


class ChangeRefused(RuntimeError):
    """The change cannot be made as asked, and nothing has moved; to try again is of no use. The message says why and what to do."""


class ChangeFailed(RuntimeError):
    """The change did not hold in service and was taken back, or is not everywhere yet; to try again is worth while."""


@dataclass(frozen=True)
class Changed:
    """A change that is in force.

    Attributes
    ----------
    plan
        The plan that made it.
    former
        Version that answered before it; None for the first.
    workers
        How many workers have the plan; 0 where no service runs.
    is_new
        False when it had been made already, by an earlier attempt or by somebody else.
    superseded_by
        The release in force, when others have been published since an earlier attempt; None otherwise.
    """

    plan: ReleasePlan
    former: int | None
    workers: int
    smoke: "SmokeTest"
    is_new: bool
    superseded_by: int | None = None


@dataclass(frozen=True)
class Published:
    """A plan that says what was wanted, in force or followed by others since; not proven by the workers yet.

    Attributes
    ----------
    history
        All plans, oldest first, with this one.
    is_new
        It was published just now.
    is_ours
        It was published for this change, now or by an earlier attempt.
    """

    plan: ReleasePlan
    history: History
    is_new: bool
    is_ours: bool


def carry_out(
    spec: "ModelSpec", stores: Stores, origin: Origin, step: Callable[[History], ReleasePlan | None]
) -> Changed:
    """Publish what follows from the history, unless it has been; move the alias, wait for the workers, test, or take it back.

    Safe to repeat with the same origin after a stop at any point: then only what is left is done.

    Parameters
    ----------
    step
        As of `publish`.

    Raises
    ------
    ChangeRefused
        When the model has no release, or the step refuses.
    ChangeFailed
        When a worker refuses the plan or answers otherwise, and all is as before; or when a worker has not got to it in
        time, nobody could be asked, or the registry is out of reach: then it stays in force, and trying again does the rest.
        Also when others have got ahead with a plan of theirs again and again.
    """
    return _finish(spec, stores, publish(spec.name, spec.release.breaker.limits, stores, origin, step), origin)


def publish(
    model: str, limits: BreakerLimits, stores: Stores, origin: Origin, step: Callable[[History], ReleasePlan | None]
) -> Published:
    """The first part of `carry_out`: when it returns, the plan is what workers go by. Nothing that takes long is imported for it.

    Parameters
    ----------
    limits
        Of the breaker, as declared.
    step
        The next plan from those so far (oldest first, at least one), None when things are already as they should be. May
        raise `ValueError` or `ChangeRefused` when it must not be done.

    Raises
    ------
    ChangeRefused
        When the model has no release, or the step refuses.
    ChangeFailed
        When others have got ahead with a plan of theirs again and again.
    """
    for _ in range(TRIES):
        history = stores.releases.history(model)
        if not history:
            raise ChangeRefused(f"model {model!r} has no release that could be changed; train and release one first")
        made, taken_back = outcome_of(history, origin.rollout)
        if made is not None and not taken_back:
            return Published(made, history, is_new=False, is_ours=True)
        try:
            plan = step(history)
        except ValueError as error:
            raise ChangeRefused(f"{error}") from error
        if plan is None:
            return Published(history[-1], history, is_new=False, is_ours=False)
        plan = limited(plan, limits)
        try:
            stores.releases.publish(plan)
        except ReleaseConflict as conflict:
            lost = conflict
            continue  # perhaps by another attempt at the same change
        return Published(plan, (*history, plan), is_new=True, is_ours=True)
    raise ChangeFailed(f"model {model!r}: another plan is being published all the time ({lost}); try again")


def _finish(spec: "ModelSpec", stores: Stores, published: Published, origin: Origin) -> Changed:
    from mlops_assets.operations.confirm import DoesNotAnswer, NotEverywhere, answer_alike, confirm, take_back
    from mlops_assets.operations.smoke import SmokeTest

    plan, history, is_new = published.plan, published.history, published.is_new
    before = history[plan.release - 2] if plan.release > 1 else None
    former = None if before is None else before.champion.version
    if plan != history[-1]:
        newest = history[-1]
        if answer_alike(newest, plan) and not (before is not None and answer_alike(before, plan)):
            return _finish_with(spec, stores, published, newest, former)
        told = SmokeTest(
            True, f"release {plan.release} was published for this; release {newest.release} has followed since"
        )
        return Changed(plan, former, 0, told, is_new, newest.release)
    moves_alias = before is None or before.champion != plan.champion
    not_moved = _move(stores, plan) if moves_alias else None
    try:
        workers, smoke = confirm(spec, stores, plan)
    except NotEverywhere as failure:
        # Half the way to the better version is no reason to put the worse one back.
        raise ChangeFailed(
            f"model {spec.name!r}: {failure}; it stays in force, try again to wait for them"
        ) from failure
    except DoesNotAnswer as failure:
        done = "it was in force before, and stays"
        if published.is_ours:
            done = take_back(stores, plan, str(failure), origin.decided_by, datetime.now(UTC), withdraw=False)
            newest_plan = stores.releases.current(spec.name)
            if moves_alias and newest_plan is not None:
                not_moved = _move(stores, newest_plan)
                done += "" if not_moved is None else f"; {not_moved}"
        raise ChangeFailed(f"model {spec.name!r} release {plan.release} does not hold: {failure}; {done}") from failure
    if not_moved is not None:
        raise ChangeFailed(f"model {spec.name!r}: release {plan.release} is in force, but {not_moved}; try again")
    return Changed(plan, former, workers, smoke, is_new)


def _finish_with(
    spec: "ModelSpec", stores: Stores, published: Published, newest: ReleasePlan, former: int | None
) -> Changed:
    """Prove a change by a plan that has followed it and keeps to it: the change may never have been what workers answer by.

    Who is on trial with that plan is no business of the change. The plan is of somebody else, and not taken back.
    """
    from mlops_assets.operations.confirm import DoesNotAnswer, NotEverywhere, confirm

    plan = published.plan
    why = _move(stores, plan)
    try:
        workers, smoke = confirm(spec, stores, msgspec.structs.replace(newest, challenger=None))
    except (NotEverywhere, DoesNotAnswer) as failure:
        why = str(failure)
    else:
        why = why if smoke.passed else smoke.why
    if why is not None:
        raise ChangeFailed(
            f"model {spec.name!r}: release {plan.release} was published for this, and release {newest.release}, which has followed "
            f"and answers the same, is not proven: {why}; it stays in force, try again"
        )
    return Changed(plan, former, workers, smoke, published.is_new, newest.release)


def _move(stores: Stores, plan: ReleasePlan) -> str | None:
    """Move the alias; why not, where the registry is out of reach: callers must not wait for it."""
    from mlops_assets.operations.confirm import AliasNotMoved, move_champion

    try:
        move_champion(stores, plan)
    except AliasNotMoved as error:
        return str(error)
    return None
