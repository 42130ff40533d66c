"""Release plans: which versions of a model are in service, in which role, who answers a request, and what the next plan is.

Values and pure steps; storing and publishing plans is the business of `stores/releases.py`.
"""

from mlops_assets.core.rollout.history import champion_before, former_champions, outcome_of
from mlops_assets.core.rollout.plan import (
    BreakerLimits,
    Challenger,
    Entrant,
    Origin,
    Release,
    ReleasePlan,
    Standby,
)
from mlops_assets.core.rollout.routing import Split
from mlops_assets.core.rollout.steps import (
    falling_back,
    forcing,
    limited,
    masking,
    promotion,
    recovering,
    retirement,
    reversal,
    rollback,
)
from mlops_assets.core.rollout.trials import dismissed, promoted, settled, trial, widened

__all__ = [
    "BreakerLimits",
    "Challenger",
    "Entrant",
    "Origin",
    "Release",
    "ReleasePlan",
    "Split",
    "Standby",
    "champion_before",
    "dismissed",
    "falling_back",
    "forcing",
    "former_champions",
    "limited",
    "masking",
    "outcome_of",
    "promoted",
    "promotion",
    "recovering",
    "retirement",
    "reversal",
    "rollback",
    "settled",
    "trial",
    "widened",
]
