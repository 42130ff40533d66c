"""What one worker answers from: an immutable snapshot, read once per request and replaced in one assignment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.records import Role
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.scoring.degraded import Mask
from mlops_assets.core.scoring.domain import DomainIndex
from mlops_assets.core.scoring.scorer import GoldenRows, Scorer
from mlops_assets.core.service_counts import ServiceCounter
from mlops_assets.serving.contract import RowContract
from mlops_assets.serving.metrics import ModelMetrics


@dataclass(frozen=True)
class LiveModel:
    """One verified, warmed-up bundle and the plan that put it in service.

    Attributes
    ----------
    mask
        Takes the values away that the plan does not trust; None where it trusts all.
    constant
        The outputs of every answer while the plan has fallen back; None while the model answers.
    counter
        Of the requests to this release in this worker.
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
    mask: Mask | None = None
    constant: list[float] | None = None
    counter: ServiceCounter = field(default_factory=ServiceCounter)

    @property
    def is_slow(self) -> bool:
        """Whether one row takes long enough to be scored off the event loop."""
        return self.manifest.uncompiled is not None and self.constant is None


@dataclass(frozen=True)
class Snapshot:
    """All that a worker has loaded, by model why its newest release was not, and the plans that retire a model."""

    models: Mapping[str, LiveModel] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    retired: Mapping[str, ReleasePlan] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """True when something can be answered, or no model was ever released, so that there is nothing to wait for."""
        return bool(self.models) or not self.errors


class ServingState:
    """The current snapshot of this worker."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
