"""What a model's release plans, oldest first, say of its past."""

from collections.abc import Collection, Sequence

from mlops_assets.core.rollout.plan import Release, ReleasePlan


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


def champion_before(history: Sequence[ReleasePlan], decided_by: Collection[str]) -> Release | None:
    """The champion, or who answered before where that came with a plan of these, be it on trial; None where nobody did.

    What an attempt has released before it failed is no measure for the next attempt at the same.
    """
    at = len(history) - 1
    while at >= 0:
        champion = history[at].champion
        first = next(place for place, plan in enumerate(history) if champion.version in _versions(plan))
        if history[first].decided_by not in decided_by:
            return champion
        at = first - 1
    return None


def outcome_of(history: Sequence[ReleasePlan], rollout: str) -> tuple[ReleasePlan | None, bool]:
    """The newest plan that goes back to a rollout, and whether it was taken back. None when there is none.

    Only a reversal returns to the rollout of the plan before the one that it follows.
    """
    made = next((at for at in reversed(range(len(history))) if history[at].rollout == rollout), None)
    if made is None:
        return None, False
    before, after = history[max(made - 1, 0)], history[made + 1 : made + 2]
    return history[made], bool(after and made) and after[0].rollout == before.rollout


def _versions(plan: ReleasePlan) -> tuple[int, ...]:
    return (plan.champion.version, *(() if plan.challenger is None else (plan.challenger.version,)))
