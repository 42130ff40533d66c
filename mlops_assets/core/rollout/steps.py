"""Pure steps from one release plan to the next that change who answers, or from what. Trials are the business of `trials.py`."""

from collections.abc import Collection

import msgspec

from mlops_assets.core.rollout.following import (
    good_one,
    next_plan,
    require_in_service,
    require_not_withdrawn,
    still_known,
)
from mlops_assets.core.rollout.plan import BreakerLimits, Entrant, Origin, Release, ReleasePlan


def promotion(
    current: ReleasePlan | None,
    champion: Entrant,
    origin: Origin,
    *,
    model: str,
    salt: str,
    breaker: BreakerLimits | None = None,
) -> ReleasePlan:
    """The plan that puts a version into full service at once. What was wrong with the former champion is over with it.

    Features that are taken for missing stay so: it is their feed that is broken.

    Parameters
    ----------
    breaker
        Those of the plan in force when None.

    Raises
    ------
    ValueError
        When the version was withdrawn: it never returns.
    """
    withdrawn = () if current is None else current.withdrawn
    require_not_withdrawn(model, withdrawn, champion.release)
    previous = 0 if current is None else current.release
    made = ReleasePlan(
        model=model,
        release=previous + 1,
        previous=previous,
        rollout=origin.rollout,
        salt=salt,
        champion=champion.release,
        challenger=None,
        standby=None,
        last_good=None if current is None else good_one(current, champion.release),
        fallback_value=champion.fallback_value,
        withdrawn=withdrawn,
        reason=origin.reason,
        decided_by=origin.decided_by,
        decided_at=origin.decided_at,
        as_of=champion.as_of,
        masked=() if current is None else still_known(current.masked, champion.features),
        breaker=None if current is None else current.breaker,
    )
    return made if breaker is None else limited(made, breaker)


def limited(plan: ReleasePlan, breaker: BreakerLimits) -> ReleasePlan:
    """The same plan with these limits; the defaults are not written down, so that older programs read it."""
    return msgspec.structs.replace(plan, breaker=None if breaker == BreakerLimits() else breaker)


def forcing(plan: ReleasePlan, champion: Entrant, origin: Origin) -> ReleasePlan:
    """The plan that puts a version into service though no gate has passed it; it says so, and never counts as good by itself.

    Raises
    ------
    ValueError
        When the version was withdrawn.
    """
    promoted = promotion(plan, champion, origin, model=plan.model, salt=plan.salt)
    return msgspec.structs.replace(promoted, forced=True)


def rollback(
    plan: ReleasePlan, to: Entrant, origin: Origin, *, last_good: Release | None = None, withdraw: bool = True
) -> ReleasePlan:
    """The plan that serves an earlier version again.

    Parameters
    ----------
    last_good
        The version to go back to from there; see `former_champions`.
    withdraw
        The former champion never returns; left out where the fault was not its own.

    Raises
    ------
    ValueError
        When the version was withdrawn, is the champion already, or the model is retired.
    """
    require_in_service(plan)
    require_not_withdrawn(plan.model, plan.withdrawn, to.release)
    if to.release.version == plan.champion.version:
        raise ValueError(
            f"model {plan.model!r}: version {to.release.version} is the champion of release {plan.release}"
        )
    return next_plan(
        plan,
        origin,
        champion=to.release,
        challenger=None,
        standby=None,
        last_good=last_good,
        fallback_value=to.fallback_value,
        withdrawn=(*plan.withdrawn, plan.champion.version) if withdraw else plan.withdrawn,
        as_of=to.as_of,
        masked=still_known(plan.masked, to.features),
        fallen_back=False,
        forced=False,
    )


def masking(plan: ReleasePlan, features: Collection[str], origin: Origin) -> ReleasePlan:
    """The plan that takes these features, and no others, for missing; none of them lets all values count again.

    Raises
    ------
    ValueError
        When the model is retired.
    """
    require_in_service(plan)
    return next_plan(plan, origin, masked=tuple(sorted(set(features))))


def falling_back(plan: ReleasePlan, origin: Origin) -> ReleasePlan:
    """The plan that answers with the constant, and asks no model.

    Raises
    ------
    ValueError
        When there is no constant, or the model is retired.
    """
    require_in_service(plan)
    if plan.fallback_value is None:
        raise ValueError(f"model {plan.model!r}: release {plan.release} has no fallback value; roll back instead")
    return next_plan(plan, origin, fallen_back=True, challenger=None, standby=None)


def retirement(plan: ReleasePlan, reason: str, origin: Origin) -> ReleasePlan:
    """The plan that takes the model out of service; everything else in it stays as it was."""
    return next_plan(plan, origin, retired=reason, challenger=None, standby=None)


def recovering(plan: ReleasePlan, origin: Origin) -> ReleasePlan:
    """The plan in which the champion answers again, after a fallback or a retirement.

    Raises
    ------
    ValueError
        When it answers already.
    """
    if not plan.fallen_back and plan.retired is None:
        raise ValueError(
            f"model {plan.model!r}: in release {plan.release} the champion answers: there is nothing to recover"
        )
    return next_plan(plan, origin, fallen_back=False, retired=None)


def reversal(plan: ReleasePlan, former: ReleasePlan, origin: Origin, *, withdraw: bool = False) -> ReleasePlan:
    """The plan that puts everything back to what `former`, the one before, had said. It keeps the former's rollout.

    Parameters
    ----------
    withdraw
        What was tried, a champion or a challenger that the former plan had in no role, never returns.
    """
    known = (former.champion, former.challenger, former.standby)
    tried = [
        one.version
        for one in (plan.champion, plan.challenger)
        if one is not None and all(other is None or other.version != one.version for other in known)
    ]
    gone = (*former.withdrawn, *tried) if withdraw else former.withdrawn
    back = msgspec.structs.replace(origin, rollout=former.rollout)
    return next_plan(msgspec.structs.replace(former, release=plan.release), back, withdrawn=gone)
