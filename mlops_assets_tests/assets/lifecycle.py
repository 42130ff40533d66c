"""A small declared model on generated rows, and its lifecycle run in this process on an ephemeral instance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from mlops_assets.components.model_lifecycle import lifecycle_definitions
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.stores import Stores
from mlops_assets.resources import make_resources
from mlops_assets.stores.home import Home

LIVE_FROM = pd.Timestamp("2024-03-01", tz="UTC")
BEGIN = pd.Timestamp("2024-01-01", tz="UTC")
ROWS = 1_500


def make_rows(rows: int = ROWS, seed: int = 1) -> pd.DataFrame:
    """Two months of events before `LIVE_FROM`; the label follows from temperature, wind and carrier, with noise."""
    random = np.random.default_rng(seed)
    carrier = random.choice(["AA", "UA", "DL"], rows)
    temp, wind = random.normal(50, 15, rows), random.gamma(2, 5, rows)
    logit = 0.06 * (50 - temp) + 0.1 * (wind - 10) + np.where(carrier == "UA", 1.0, 0.0)
    return pd.DataFrame(
        {
            "flight": [f"F{number}" for number in range(rows)],
            "departure": pd.date_range(BEGIN, LIVE_FROM - pd.Timedelta(hours=2), rows).astype("datetime64[us, UTC]"),
            "carrier": carrier,
            "temp": temp.round(1),
            "wind": wind.round(1),
            "distance": random.integers(100, 3000, rows).astype(float),
            "late": (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
        }
    )


def make_spec(table: Path, **changes: Any) -> ModelSpec:
    """The declaration of the model that `make_rows` has rows for."""
    declared: dict[str, Any] = {
        "name": "delay",
        "owner": "team:tests",
        "task": "binary",
        "source": {"table": str(table)},
        "entity_key": "flight",
        "event_time": "departure",
        "live_from": LIVE_FROM.to_pydatetime(),
        "label": {"column": "late", "delay": "1h"},
        "features": [
            {"name": "carrier", "type": "category", "categories": ["AA", "UA", "DL"]},
            {"name": "temp", "type": "number", "unit": "°F", "minimum": -50, "maximum": 130},
            {"name": "wind", "type": "number", "unit": "mph"},
            {"name": "distance", "type": "number", "unit": "mi", "domain": "closed", "minimum": 1, "maximum": 6000},
        ],
        "evaluation": {"bootstrap_resamples": 50},
        "training": {
            "estimator": "sklearn.linear_model.LogisticRegression",
            "number_transformer": {"estimator": "sklearn.preprocessing.StandardScaler"},
            "holdout": "14d",
        },
        "gates": [
            {"metric": "roc_auc", "at_least": 0.6},
            {"kind": "baseline", "metric": "brier"},
            {"kind": "champion", "metric": "brier", "margin": 0.02},
        ],
    }
    return ModelSpec.model_validate({**declared, **changes})


@dataclass(frozen=True)
class Run:
    """One lifecycle run: what happened, and the state it left."""

    result: dg.ExecuteInProcessResult
    stores: Stores

    @property
    def failed_checks(self) -> set[str]:
        return {check.check_name for check in self.result.get_asset_check_evaluations() if not check.passed}

    @property
    def materialised(self) -> set[str]:
        return {event.asset_key.path[-1] for event in self.result.get_asset_materialization_events() if event.asset_key}

    def check(self, name: str) -> dg.AssetCheckEvaluation:
        return next(check for check in self.result.get_asset_check_evaluations() if check.check_name == name)

    def failure(self) -> str:
        """The message of the step that failed."""
        failures = [event for event in self.result.all_events if event.is_step_failure]
        data = failures[0].step_failure_data
        return f"{data.error.message} {data.error.cause.message if data.error.cause else ''}" if data.error else ""


def run_lifecycle(
    spec: ModelSpec,
    home: Path,
    *,
    as_of: str | None = None,
    selection: list[str] | None = None,
    instance: dg.DagsterInstance | None = None,
    asked: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
) -> Run:
    """Run the model's job in this process; a failure is part of the result. `asked` is configured beside `as_of`."""
    definitions = dg.Definitions.merge(lifecycle_definitions(spec), dg.Definitions(resources=make_resources(str(home))))
    wanted = ({} if as_of is None else {"as_of": as_of}) | (asked or {})
    config = {"ops": {f"{spec.name}__raw_data": {"config": wanted}}} if wanted else {}
    job = definitions.resolve_job_def(f"{spec.name}_lifecycle")
    keys = None if selection is None else [dg.AssetKey([spec.name, name]) for name in selection]
    result = job.execute_in_process(
        run_config=config,
        instance=instance or dg.DagsterInstance.ephemeral(),
        asset_selection=keys,
        raise_on_error=False,
        tags=tags,
    )
    return Run(result, Stores(Home(home)))
