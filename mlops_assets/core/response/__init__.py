"""What to do about a model, and why: from the verdicts on its windows, what was done before, and the declared policy.

Pure functions, the same for live traffic and for replays. Carrying decisions out is the business of `operations` and `sensors`.
"""

from mlops_assets.core.response.findings import find, is_confirmed_drift
from mlops_assets.core.response.remedies import last_good
from mlops_assets.core.response.respond import Response, policy_of, respond
from mlops_assets.core.response.situation import (
    DRIFT,
    FEED,
    GATES,
    LOOK_BACK,
    PERFORMANCE,
    RUNS,
    SERVICE,
    SIGNS,
    TRAFFIC,
    Champion,
    Finding,
    Signal,
    Situation,
)
from mlops_assets.core.response.trainings import held_by_trial

__all__ = [
    "DRIFT",
    "FEED",
    "GATES",
    "LOOK_BACK",
    "PERFORMANCE",
    "RUNS",
    "SERVICE",
    "SIGNS",
    "TRAFFIC",
    "Champion",
    "Finding",
    "Response",
    "Signal",
    "Situation",
    "find",
    "held_by_trial",
    "is_confirmed_drift",
    "last_good",
    "policy_of",
    "respond",
]
