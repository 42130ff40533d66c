"""Small released versions of one model, with a registry in memory."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from mlops_assets.core.manifest import Manifest
from mlops_assets.core.rollout import Entrant, Origin, Release, ReleasePlan, promotion
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.plan_changes import Changed
from mlops_assets.operations.rollback import roll_back
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.home import Home
from mlops_assets.stores.registry import AliasMove, VersionFacts
from mlops_assets_tests.serving.factory import SmallModel, small_model, small_spec

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
WHY: dict[str, Any] = {"reason": "it is worse", "decided_by": "sensor:tests", "now": NOON}


@dataclass
class MemoryRegistry:
    """Versions and aliases with their history, as the registry keeps them; nothing logged to a run can be fetched."""

    bundles: dict[int, str | None] = field(default_factory=dict)
    moves: list[AliasMove] = field(default_factory=list)

    def versions(self, model: str) -> tuple[VersionFacts, ...]:
        return tuple(
            VersionFacts(version, f"run-{version}", 0, {} if bundle is None else {"bundle": bundle})
            for version, bundle in sorted(self.bundles.items())
        )

    def aliased(self, model: str, alias: str) -> int | None:
        return self.moves[-1].version if self.moves else None

    def move_alias(self, model: str, move: AliasMove) -> None:
        if self.aliased(model, move.alias) != move.version:
            self.moves.append(move)

    def fetch_folder(self, run_id: str, logged: str, to: Path) -> Path:
        raise FileNotFoundError(f"run {run_id} has no folder {logged}")


def stores_in(home: Path) -> Stores:
    stores = Stores(Home(home))
    stores.__dict__["registry"] = MemoryRegistry()
    return stores


def three_released(home: Path) -> Stores:
    """Versions 1, 2 and 3 were released; 3 answers."""
    stores = stores_in(home)
    released(stores, 1, 2, 3)
    return stores


def registry_of(stores: Stores) -> MemoryRegistry:
    registry: MemoryRegistry = stores.__dict__["registry"]
    return registry


def bundled(stores: Stores, model: SmallModel) -> Entrant:
    """Store a version's bundle and register it."""
    manifest: Manifest = msgspec.structs.replace(model.manifest, fallback_value=0.25)
    bundle = stores.bundles.put(manifest, model.files)
    registry_of(stores).bundles[manifest.version] = bundle
    return Entrant(Release(manifest.version, bundle), model.features, 0.25, manifest.as_of)


def released(stores: Stores, *versions: int) -> ReleasePlan:
    """Promote these versions one after the other; the plan of the last is returned."""
    for version in versions:
        entrant = bundled(stores, small_model(version=version))
        current = stores.releases.current("delay")
        origin = Origin(f"r-{version}", "the gates passed", "user:tests", datetime.now(UTC))
        plan = promotion(current, entrant, origin, model="delay", salt="salt")
        stores.releases.publish(plan)
        registry_of(stores).move_alias("delay", AliasMove("champion", version, plan.decided_at, plan.reason))
    return plan


def current(stores: Stores) -> ReleasePlan:
    """The plan in force."""
    plan = stores.releases.current("delay")
    assert plan is not None
    return plan


def back(stores: Stores, version: int | None = None, spec: ModelSpec | None = None, **changes: Any) -> Changed:
    """Go back, to the last good version where none is named."""
    return roll_back(spec or small_spec(), stores, version, **{**WHY, **changes})
