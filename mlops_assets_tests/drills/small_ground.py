"""Ground for drills on a small model, which needs no training run: released by hand, its traffic in a Parquet file."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import yaml

from mlops_assets.core.spec import ModelSpec
from mlops_assets.drills.ground import Ground
from mlops_assets.operations.models import COMPONENT
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model, small_rows, small_spec

LIVE_FROM = datetime(2013, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SmallGround(Ground):
    """Ground whose one model, `delay`, is declared in the work folder."""

    @property
    def declared(self) -> Path:
        return self.folder / "declared"


def small_ground(folder: Path) -> SmallGround:
    """Ground with a snapshot in which the model is released, and a day of its traffic."""
    ground = SmallGround(folder)
    table = folder / "flights.parquet"
    spec = small_spec(source={"table": str(table)})
    _declare(ground, spec)
    rows = small_rows("binary", 1_000, seed=7)
    rows["at"] = pd.date_range(LIVE_FROM, periods=len(rows), freq="1min")
    rows["holiday"] = rows["holiday"].map({0.0: False, 1.0: True}).astype("boolean")
    rows.to_parquet(table)
    release(Home(ground.snapshot), small_model())
    return ground


def _declare(ground: SmallGround, spec: ModelSpec) -> None:
    attributes = spec.model_dump(mode="json", exclude_unset=True)
    path = ground.declared / spec.name / "defs.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"type": COMPONENT, "attributes": attributes}))
