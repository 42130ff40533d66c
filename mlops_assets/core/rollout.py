"""Release plans: which versions of a model are in service, in which role, and what the next plan is.

Values and pure steps from one plan to the next; storing and publishing plans is the business of `stores/releases.py`.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One registered version and the content hash ("sha256:...") of the bundle that serves it."""

    version: int
    bundle: str


class Challenger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version on trial: scored beside the champion (shadow) or answering a share of the entities (canary)."""

    version: int
    bundle: str
    mode: Literal["shadow", "canary"]
    share: float


class Standby(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The former champion, kept loaded until an event time."""

    version: int
    bundle: str
    until: datetime


class ReleasePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One immutable step in a model's service history, numbered from 1; `previous` is 0 for the first.

    Attributes
    ----------
    rollout
        What this plan goes back to: the decision, or the release of a candidate. A plan is made once for each.
    last_good
        The version to go back to: the last that served and was neither withdrawn nor put in service without being judged.
    masked
        Features whose received values are taken for missing.
    fallen_back
        Answers are `fallback_value`, whatever was asked.
    retired
        Why the model is out of service; None while it is not.
    forced
        The champion was put in service without passing the gates.
    """

    model: str
    release: int
    previous: int
    rollout: str
    salt: str
    champion: Release
    challenger: Challenger | None
    standby: Standby | None
    last_good: Release | None
    fallback_value: float | str | int | None
    withdrawn: tuple[int, ...]
    reason: str
    decided_by: str
    decided_at: datetime
    as_of: datetime
    masked: tuple[str, ...] = ()
    fallen_back: bool = False
    retired: str | None = None
    forced: bool = False


class Entrant(msgspec.Struct, frozen=True):
    """A version that comes into service, with what its manifest says: features, constant answer, and how recent it is."""

    release: Release
    features: tuple[str, ...]
    fallback_value: float | str | int | None
    as_of: datetime


class Origin(msgspec.Struct, frozen=True):
    """Where a plan comes from: the decision it carries out, why, by whom, and when by the wall clock."""

    rollout: str
    reason: str
    decided_by: str
    decided_at: datetime


def promotion(current: ReleasePlan | None, champion: Entrant, origin: Origin, *, model: str, salt: str) -> ReleasePlan:
    """The plan that puts a version into full service at once. What was wrong with the former champion is over with it.

    Features that are taken for missing stay so: it is their feed that is broken.

    Raises
    ------
    ValueError
        When the version was withdrawn: it never returns.
    """
    withdrawn = () if current is None else current.withdrawn
    _require_not_withdrawn(model, withdrawn, champion.release)
    previous = 0 if current is None else current.release
    return ReleasePlan(
        model=model,
        release=previous + 1,
        previous=previous,
        rollout=origin.rollout,
        salt=salt,
        champion=champion.release,
        challenger=None,
        standby=None,
        last_good=None if current is None else _good_one(current, champion.release),
        fallback_value=champion.fallback_value,
        withdrawn=withdrawn,
        reason=origin.reason,
        decided_by=origin.decided_by,
        decided_at=origin.decided_at,
        as_of=champion.as_of,
        masked=() if current is None else _still_known(current.masked, champion.features),
    )


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
    _require_in_service(plan)
    _require_not_withdrawn(plan.model, plan.withdrawn, to.release)
    if to.release.version == plan.champion.version:
        raise ValueError(
            f"model {plan.model!r}: version {to.release.version} is the champion of release {plan.release}"
        )
    return _next(
        plan,
        origin,
        champion=to.release,
        challenger=None,
        standby=None,
        last_good=last_good,
        fallback_value=to.fallback_value,
        withdrawn=(*plan.withdrawn, plan.champion.version) if withdraw else plan.withdrawn,
        as_of=to.as_of,
        masked=_still_known(plan.masked, to.features),
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
    _require_in_service(plan)
    return _next(plan, origin, masked=tuple(sorted(set(features))))


def falling_back(plan: ReleasePlan, origin: Origin) -> ReleasePlan:
    """The plan that answers with the constant, and asks no model.

    Raises
    ------
    ValueError
        When there is no constant, or the model is retired.
    """
    _require_in_service(plan)
    if plan.fallback_value is None:
        raise ValueError(f"model {plan.model!r}: release {plan.release} has no fallback value; roll back instead")
    return _next(plan, origin, fallen_back=True, challenger=None, standby=None)


def retirement(plan: ReleasePlan, reason: str, origin: Origin) -> ReleasePlan:
    """The plan that takes the model out of service; everything else in it stays as it was."""
    return _next(plan, origin, retired=reason, challenger=None, standby=None)


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
    return _next(plan, origin, fallen_back=False, retired=None)


def reversal(plan: ReleasePlan, former: ReleasePlan, origin: Origin, *, withdraw: bool = False) -> ReleasePlan:
    """The plan that puts everything back to what `former`, the one before, had said. It keeps the former's rollout.

    Parameters
    ----------
    withdraw
        The champion that was tried never returns.
    """
    tried = plan.champion.version
    gone = (*former.withdrawn, tried) if withdraw and tried != former.champion.version else former.withdrawn
    back = msgspec.structs.replace(origin, rollout=former.rollout)
    return _next(msgspec.structs.replace(former, release=plan.release), back, withdrawn=gone)


def former_champions(history: Sequence[ReleasePlan]) -> tuple[Release, ...]:
    """Who could be gone back to: earlier champions of a history (oldest first), the last first, none of them twice.

    Left out are the champion, those withdrawn since, and those that were only ever forced into service.
    """
    if not history:
        return ()
    newest = history[-1]
    left_out = {newest.champion.version, *newest.withdrawn}
    served = [plan.champion for plan in reversed(history) if not plan.forced and plan.champion.version not in left_out]
    return tuple(dict.fromkeys(served))


def outcome_of(history: Sequence[ReleasePlan], rollout: str) -> tuple[ReleasePlan | None, bool]:
    """The newest plan that goes back to a rollout, and whether it was taken back. None when there is none.

    Only a reversal returns to the rollout of the plan before the one that it follows.
    """
    made = next((at for at in reversed(range(len(history))) if history[at].rollout == rollout), None)
    if made is None:
        return None, False
    before, after = history[max(made - 1, 0)], history[made + 1 : made + 2]
    return history[made], bool(after and made) and after[0].rollout == before.rollout


def _next(plan: ReleasePlan, origin: Origin, **changes: Any) -> ReleasePlan:
    said = {"reason": origin.reason, "decided_by": origin.decided_by, "decided_at": origin.decided_at}
    return msgspec.structs.replace(
        plan, release=plan.release + 1, previous=plan.release, rollout=origin.rollout, **said, **changes
    )


def _good_one(current: ReleasePlan, champion: Release) -> Release | None:
    """Whom to go back to when `champion` follows `current`."""
    doubtful = current.forced or current.fallen_back
    good = current.last_good if doubtful or current.champion == champion else current.champion
    return None if good == champion else good


def _still_known(masked: tuple[str, ...], features: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in masked if name in features)


def _require_not_withdrawn(model: str, withdrawn: tuple[int, ...], champion: Release) -> None:
    if champion.version in withdrawn:
        raise ValueError(
            f"model {model!r}: version {champion.version} was withdrawn and never returns; train a new one"
        )


def _require_in_service(plan: ReleasePlan) -> None:
    if plan.retired is not None:
        raise ValueError(
            f"model {plan.model!r} is out of service since release {plan.release} or before ({plan.retired}); recover it first"
        )
