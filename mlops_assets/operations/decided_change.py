"""The change of the release plan that a decision asks for, and what it came to.

When a decision may be carried out is the business of `core/carrying.py`.
"""

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final, TypedDict

from mlops_assets.core.ledger import Decision, Outcome
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.plan_changes import Changed, ChangeFailed, ChangeRefused
from mlops_assets.operations.rollback import fall_back, mask, recover, roll_back
from mlops_assets.operations.stores import Stores

# Among the details of a way back: the version that answered is not withdrawn, and may return.
KEEPING: Final = {"keep": "former"}


@dataclass(frozen=True)
class DecidedChange:
    """How an attempt to change the plan has ended, why, and the change where there is one."""

    outcome: Outcome
    detail: str
    changed: Changed | None = None


def change_as_decided(
    spec: ModelSpec, stores: Stores, decision: Decision, now: datetime, *, is_last_attempt: bool
) -> DecidedChange:
    """Change the release plan as a decision asks for; safe to repeat after a stop at any point.

    A freeze is one also where there is nothing to go back to, or that fails.

    Parameters
    ----------
    decision
        About anything but a training.
    is_last_attempt
        A failure is the end of it.
    """
    is_freeze = decision.what.action == "freeze"
    try:
        changed = _apply(spec, stores, decision, now)
    except ChangeRefused as error:
        return DecidedChange("done" if is_freeze else "refused", str(error))
    except ChangeFailed as error:
        if not is_last_attempt:
            return DecidedChange("failed", str(error))
        return DecidedChange("done" if is_freeze else "abandoned", str(error))
    if changed is None:
        return DecidedChange("done", "automation is frozen")
    ours = changed.plan.rollout == decision.id
    told = _told(changed)
    if decision.what.action == "roll back" and (gone := _withdrawn_by(stores, spec.name, decision.id)) is not None:
        told += f"; version {gone} is withdrawn and never returns"
    return DecidedChange("done" if ours or is_freeze else "unchanged", told, changed)


def _apply(spec: ModelSpec, stores: Stores, decision: Decision, now: datetime) -> Changed | None:
    details = decision.what.details
    version = int(details["version"]) if details.get("version") else None
    about = int(details["instead_of"]) if details.get("instead_of") else None
    said = _Said(reason=decision.what.reason, decided_by=decision.actor, now=now, origin=decision.id)
    match decision.what.action:
        case "roll back":
            keeps = KEEPING.items() <= details.items()
            return roll_back(spec, stores, version, instead_of=about, keep_former=keeps, **said)
        case "freeze":
            return None if version is None else roll_back(spec, stores, version, instead_of=about, **said)
        case "impute":
            features = tuple(name for name in details.get("masked", "").split(",") if name)
            return mask(spec, stores, features, **said)
        case "fall back" if details.get("to") == "champion":
            return recover(spec, stores, **said)
        case "fall back":
            return fall_back(spec, stores, **said)
        case other:
            raise ValueError(f"{decision.id}: nobody knows how to {other}")


def _withdrawn_by(stores: Stores, model: str, decision: str) -> int | None:
    """The version that a decision has withdrawn: with its first plan, for one that takes a later release back names it too."""
    steps = pairwise(stores.releases.history(model))
    before, plan = next(((before, plan) for before, plan in steps if plan.rollout == decision), (None, None))
    if before is None or plan is None or len(plan.withdrawn) <= len(before.withdrawn):
        return None
    return plan.withdrawn[-1]


class _Said(TypedDict):
    """What every change of a plan is told."""

    reason: str
    decided_by: str
    now: datetime
    origin: str


def _told(changed: Changed) -> str:
    plan = changed.plan
    what = f"version {plan.champion.version} serves with release {plan.release}"
    if plan.masked:
        what += f", {', '.join(plan.masked)} taken for missing"
    if plan.fallen_back:
        what += ", the constant as its answer"
    where = f"{changed.workers} workers have it" if changed.workers else "no worker runs"
    return f"{what}; {where}; {changed.smoke.why}"
