"""What one worker answers from: an immutable snapshot, read once per request and replaced in one assignment."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.records import Role
from mlops_assets.core.rollout import BreakerLimits, ReleasePlan, Split
from mlops_assets.core.scoring.degraded import Mask
from mlops_assets.core.scoring.domain import DomainIndex
from mlops_assets.core.scoring.scorer import GoldenRows, Scorer
from mlops_assets.core.service_counts import ServiceCounter
from mlops_assets.serving.breaker import Breaker, Trouble
from mlops_assets.serving.contract import RawRow, RowContract
from mlops_assets.serving.metrics import ModelMetrics

Place = Literal["challenger", "standby", "last_good", "fallback"]
Arrange = Callable[[RawRow], RawRow]


@dataclass(frozen=True, eq=False)
class LiveModel:
    """One verified, warmed-up bundle, the role it has, and the plan that put it there.

    Attributes
    ----------
    arrange
        Takes a row in the order of the champion's contract to this one's own; None where they are the same.
    mask
        Takes the values away that the plan does not trust; None where it trusts all.
    constant
        The outputs of every answer that is given without asking the model; None where it is asked.
    counter
        Of what was put to it in this worker since this release: of a request that it failed, also where another answered.
    beside
        Who else is loaded; of a champion alone.
    """

    plan: ReleasePlan
    bundle: str
    manifest: Manifest
    contract: RowContract
    domain: DomainIndex
    scorer: Scorer
    golden: GoldenRows
    metrics: ModelMetrics
    loaded_at: datetime
    role: Role = "champion"
    arrange: Arrange | None = None
    mask: Mask | None = None
    constant: list[float] | None = None
    counter: ServiceCounter = field(default_factory=ServiceCounter)
    breaker: Breaker = field(default_factory=lambda: Breaker(BreakerLimits(), time.monotonic))
    beside: "Beside" = field(default_factory=lambda: Beside())

    @cached_property
    def is_slow(self) -> bool:
        """Whether one row takes long enough to be scored off the event loop."""
        return self.manifest.uncompiled is not None and self.constant is None

    @cached_property
    def is_quick(self) -> bool:
        """Whether a few rows are scored on the event loop."""
        return self.manifest.uncompiled is None and self.constant is None

    @property
    def who(self) -> str:
        """For messages."""
        return f"{self.role} version {self.manifest.version}"

    def failed(self, trouble: Trouble) -> None:
        """A request that was put to it got no answer from it. On the event loop alone."""
        self.counter.observe(500, 0.0)
        self.metrics.failures.inc()
        self.breaker.failed(trouble)


@dataclass(frozen=True, eq=False)
class Beside:
    """Who is loaded beside a champion, each of them verified as the champion was.

    Attributes
    ----------
    split
        Which entities the challenger answers, or is scored for in shadow; its role tells which.
    refused
        Why somebody whom the plan names is not loaded. The champion answers all the same.
    """

    challenger: LiveModel | None = None
    split: Split | None = None
    standby: LiveModel | None = None
    last_good: LiveModel | None = None
    fallback: LiveModel | None = None
    refused: Mapping[Place, str] = field(default_factory=dict)

    @property
    def stand_ins(self) -> tuple[LiveModel, ...]:
        """Who answers when the champion does not, in the order in which they are asked."""
        return tuple(one for one in (self.standby, self.last_good, self.fallback) if one is not None)

    @property
    def loaded(self) -> dict[Place, LiveModel]:
        named: dict[Place, LiveModel | None] = {
            "challenger": self.challenger,
            "standby": self.standby,
            "last_good": self.last_good,
            "fallback": self.fallback,
        }
        return {place: one for place, one in named.items() if one is not None}


@dataclass(frozen=True)
class Snapshot:
    """The champions that a worker has loaded, by model why its newest release was not, and the plans that retire a model."""

    models: Mapping[str, LiveModel] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    retired: Mapping[str, ReleasePlan] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """True when something can be answered, or no model was ever released, so that there is nothing to wait for."""
        return bool(self.models) or not self.errors

    @property
    def lacks_something(self) -> bool:
        """Whether anything that is planned could not be loaded, and should be tried again."""
        return bool(self.errors) or any(
            place != "last_good" for live in self.models.values() for place in live.beside.refused
        )


class ServingState:
    """The current snapshot of this worker."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
