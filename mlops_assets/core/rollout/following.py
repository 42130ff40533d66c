"""What all steps from one release plan to the next have in common."""

from collections.abc import Collection
from typing import Any

import msgspec

from mlops_assets.core.rollout.plan import Origin, Release, ReleasePlan


def next_plan(plan: ReleasePlan, origin: Origin, **changes: Any) -> ReleasePlan:
    """The plan that follows this one, with these changes."""
    said = {"reason": origin.reason, "decided_by": origin.decided_by, "decided_at": origin.decided_at}
    return msgspec.structs.replace(
        plan, release=plan.release + 1, previous=plan.release, rollout=origin.rollout, **said, **changes
    )


def good_one(current: ReleasePlan, champion: Release) -> Release | None:
    """Whom to go back to when `champion` follows `current`."""
    doubtful = current.forced or current.fallen_back
    good = current.last_good if doubtful or current.champion == champion else current.champion
    return None if good == champion else good


def still_known(masked: tuple[str, ...], features: Collection[str]) -> tuple[str, ...]:
    """Those of the masked features that a version has."""
    return tuple(name for name in masked if name in features)


def require_not_withdrawn(model: str, withdrawn: tuple[int, ...], champion: Release) -> None:
    """Raises `ValueError` for a version that was withdrawn."""
    if champion.version in withdrawn:
        raise ValueError(
            f"model {model!r}: version {champion.version} was withdrawn and never returns; train a new one"
        )


def require_in_service(plan: ReleasePlan) -> None:
    """Raises `ValueError` when the model is retired."""
    if plan.retired is not None:
        raise ValueError(
            f"model {plan.model!r} is out of service since release {plan.release} or before ({plan.retired}); recover it first"
        )
