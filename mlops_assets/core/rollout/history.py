"""What a model's release plans, oldest first, say of its past."""

from collections.abc import Sequence

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


def outcome_of(history: Sequence[ReleasePlan], rollout: str) -> tuple[ReleasePlan | None, bool]:
    """The newest plan that goes back to a rollout, and whether it was taken back. None when there is none.

    Only a reversal returns to the rollout of the plan before the one that it follows.
    """
    made = next((at for at in reversed(range(len(history))) if history[at].rollout == rollout), None)
    if made is None:
        return None, False
    before, after = history[max(made - 1, 0)], history[made + 1 : made + 2]
    return history[made], bool(after and made) and after[0].rollout == before.rollout
