"""Pure steps of a trial: a challenger comes in, gets a larger share, takes over, or goes; and the standby that is left of it.

When to take which of them is decided elsewhere, from the evidence.
"""

from datetime import datetime
from typing import Literal

import msgspec

from mlops_assets.core.rollout.following import (
    good_one,
    next_plan,
    require_in_service,
    require_not_withdrawn,
    still_known,
)
from mlops_assets.core.rollout.plan import Challenger, Entrant, Origin, ReleasePlan, Standby
from mlops_assets.core.rollout.routing import require_salt


def trial(
    plan: ReleasePlan, challenger: Entrant, mode: Literal["shadow", "canary"], share: float, origin: Origin, salt: str
) -> ReleasePlan:
    """The plan that puts a version on trial beside the champion, or the one that is on trial already into another mode or share.

    Parameters
    ----------
    share
        Of the entities, above 0 and at most 1: those for which it is scored (shadow), or whom it answers (canary).
    salt
        Of the rollout: whoever shall stay in the share from one step to the next needs the same one again.

    Raises
    ------
    ValueError
        When the version was withdrawn, is the champion, or another one is on trial; when the model is retired or answers with
        its constant; for a share that is none, or a salt that is too long.
    """
    _require_champion_answers(plan)
    _require_share(plan, share)
    require_salt(salt)
    release, former = challenger.release, plan.challenger
    require_not_withdrawn(plan.model, plan.withdrawn, release)
    if release.version == plan.champion.version:
        raise ValueError(f"model {plan.model!r}: version {release.version} is the champion of release {plan.release}")
    if former is not None and former.version != release.version:
        raise ValueError(
            f"model {plan.model!r}: version {former.version} is on trial in release {plan.release}; dismiss or promote it first"
        )
    return next_plan(plan, origin, challenger=Challenger(release.version, release.bundle, mode, share), salt=salt)


def widened(plan: ReleasePlan, share: float, origin: Origin) -> ReleasePlan:
    """The plan that gives the challenger a larger share; whoever was in the smaller one stays in it.

    Raises
    ------
    ValueError
        When nothing is on trial, the share is no larger, or more than 1; when the model is retired or answers with its constant.
    """
    _require_champion_answers(plan)
    challenger = _on_trial(plan)
    _require_share(plan, share)
    if share <= challenger.share:
        raise ValueError(
            f"model {plan.model!r}: version {challenger.version} has a share of {challenger.share:g} in release {plan.release}; "
            f"{share:g} is no larger one"
        )
    return next_plan(plan, origin, challenger=msgspec.structs.replace(challenger, share=share))


def promoted(plan: ReleasePlan, entrant: Entrant, standby_until: datetime, origin: Origin) -> ReleasePlan:
    """The plan in which a version takes over, and the former champion stays loaded for an instant way back.

    Where the former champion was forced into service, the version to go back to from there is kept instead.

    Parameters
    ----------
    standby_until
        Event time up to which it is to be kept; see `settled`.

    Raises
    ------
    ValueError
        When the version was withdrawn or is the champion, another one is on trial, or the model is retired or answers with its
        constant.
    """
    _require_champion_answers(plan)
    release = entrant.release
    require_not_withdrawn(plan.model, plan.withdrawn, release)
    if release.version == plan.champion.version:
        raise ValueError(f"model {plan.model!r}: version {release.version} is the champion of release {plan.release}")
    if plan.challenger is not None and plan.challenger.version != release.version:
        raise ValueError(
            f"model {plan.model!r}: version {plan.challenger.version} is on trial in release {plan.release}, not version "
            f"{release.version}; dismiss it first"
        )
    good = good_one(plan, release)
    return next_plan(
        plan,
        origin,
        champion=release,
        challenger=None,
        standby=None if good is None else Standby(good.version, good.bundle, standby_until),
        last_good=good,
        fallback_value=entrant.fallback_value,
        as_of=entrant.as_of,
        masked=still_known(plan.masked, entrant.features),
        forced=False,
    )


def dismissed(plan: ReleasePlan, origin: Origin, withdraw: bool) -> ReleasePlan:
    """The plan that ends a trial, and leaves everything else as it is.

    Parameters
    ----------
    withdraw
        The challenger never returns, in no role.

    Raises
    ------
    ValueError
        When nothing is on trial.
    """
    version = _on_trial(plan).version
    if not withdraw:
        return next_plan(plan, origin, challenger=None)
    standby, good = plan.standby, plan.last_good
    return next_plan(
        plan,
        origin,
        challenger=None,
        standby=None if standby is not None and standby.version == version else standby,
        last_good=None if good is not None and good.version == version else good,
        withdrawn=(*plan.withdrawn, version),
    )


def settled(plan: ReleasePlan, origin: Origin) -> ReleasePlan:
    """The plan that lets the standby go, when its time is over.

    Raises
    ------
    ValueError
        When there is none.
    """
    if plan.standby is None:
        raise ValueError(f"model {plan.model!r}: release {plan.release} has no standby to let go")
    return next_plan(plan, origin, standby=None)


def _on_trial(plan: ReleasePlan) -> Challenger:
    if plan.challenger is None:
        raise ValueError(f"model {plan.model!r}: nothing is on trial in release {plan.release}")
    return plan.challenger


def _require_share(plan: ReleasePlan, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"model {plan.model!r}: {share!r} is no share of the requests: choose one above 0, up to 1")


def _require_champion_answers(plan: ReleasePlan) -> None:
    require_in_service(plan)
    if plan.fallen_back:
        raise ValueError(
            f"model {plan.model!r} answers with its constant since release {plan.release} or before: recover it first"
        )
