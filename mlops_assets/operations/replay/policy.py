"""The policies that are compared on a history, and how each fared."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from mlops_assets.core.spec import ModelSpec

NEVER, WEEKLY, FOUR_WEEKLY, DECLARED = "never", "every week", "every four weeks", "as declared"


@dataclass(frozen=True)
class Policy:
    """One way of keeping a model: by the calendar, `every` so often, or as its declaration responds; never where neither."""

    name: str
    spec: ModelSpec
    every: timedelta | None = None
    responds: bool = False


class Step(msgspec.Struct, frozen=True):
    """Something that a policy did: at which event time, what, with what outcome, and why."""

    now: datetime
    action: str
    outcome: str
    why: str


class PolicyResult(msgspec.Struct, frozen=True):
    """How a policy fared. Losses are means of the model's headline loss over labelled rows, by window and over all."""

    policy: str
    model: str
    metric: str
    trainings: int
    promotions: int
    rollbacks: int
    alerts_per_week: float | None
    mean_loss: float
    worst_loss: float
    worst_window: str
    windows: tuple[str, ...]
    losses: tuple[float, ...]
    rows: tuple[int, ...]
    steps: tuple[Step, ...]
    seconds: float


def policies_of(spec: ModelSpec, edited: ModelSpec | None = None) -> tuple[Policy, ...]:
    """Never, every week, every four weeks, as declared, and as edited where another declaration is given."""
    week = timedelta(weeks=1)
    known = (
        Policy(NEVER, spec),
        Policy(WEEKLY, spec, week),
        Policy(FOUR_WEEKLY, spec, 4 * week),
        Policy(DECLARED, spec, responds=True),
    )
    return known if edited is None else (*known, Policy("as edited", edited, responds=True))
