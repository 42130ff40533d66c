"""Release plans: which versions of a model are in service, in which role, and what the next plan is.

Values and pure steps from one plan to the next; storing and publishing plans is the business of `stores/releases.py`.
"""

from datetime import datetime
from typing import Literal

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


class ReleasePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One immutable step in a model's service history, numbered from 1; `previous` is 0 for the first."""

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


def promotion(
    current: ReleasePlan | None,
    *,
    model: str,
    champion: Release,
    fallback_value: float | str | int | None,
    rollout: str,
    salt: str,
    reason: str,
    decided_by: str,
    decided_at: datetime,
    as_of: datetime,
) -> ReleasePlan:
    """The plan that puts a version into full service at once; the former champion is remembered as the last good one.

    Raises
    ------
    ValueError
        When the version was withdrawn: it never returns.
    """
    withdrawn = () if current is None else current.withdrawn
    if champion.version in withdrawn:
        raise ValueError(
            f"model {model!r}: version {champion.version} was withdrawn and never returns; train a new one"
        )
    previous = 0 if current is None else current.release
    return ReleasePlan(
        model=model,
        release=previous + 1,
        previous=previous,
        rollout=rollout,
        salt=salt,
        champion=champion,
        challenger=None,
        standby=None,
        last_good=None if current is None else current.champion,
        fallback_value=fallback_value,
        withdrawn=withdrawn,
        reason=reason,
        decided_by=decided_by,
        decided_at=decided_at,
        as_of=as_of,
    )


def withdrawal(plan: ReleasePlan, *, reason: str, decided_by: str, decided_at: datetime) -> ReleasePlan:
    """The plan that serves the last good version again; the withdrawn one never returns.

    Raises
    ------
    ValueError
        When no last good version is known.
    """
    if plan.last_good is None:
        raise ValueError(f"model {plan.model!r}: release {plan.release} knows no last good version to go back to")
    return msgspec.structs.replace(
        plan,
        release=plan.release + 1,
        previous=plan.release,
        champion=plan.last_good,
        challenger=None,
        standby=None,
        last_good=None,
        withdrawn=(*plan.withdrawn, plan.champion.version),
        reason=reason,
        decided_by=decided_by,
        decided_at=decided_at,
    )
