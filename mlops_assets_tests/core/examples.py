"""One small declaration, and rows that hold it: what the tests of the domain share and vary."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from mlops_assets.core.spec import ModelSpec

START = datetime(2024, 1, 1, tzinfo=UTC)
LIVE_FROM = datetime(2024, 3, 1, tzinfo=UTC)


def declaration(**changes: Any) -> dict[str, Any]:
    """A binary model with a feature of each type, as YAML would give it; `changes` replace whole fields."""
    return {
        "name": "delay",
        "owner": "team:tests",
        "task": "binary",
        "source": {"table": "flights.parquet"},
        "entity_key": "flight",
        "event_time": "at",
        "live_from": "2024-03-01T00:00:00Z",
        "label": {"column": "late", "delay": "2h"},
        "features": [
            {"name": "temp", "type": "number", "minimum": -40, "maximum": 130},
            {"name": "seats", "type": "integer", "minimum": 1, "maximum": 500, "domain": "closed"},
            {"name": "night", "type": "boolean"},
            {"name": "carrier", "type": "category", "categories": ["AA", "UA"]},
            {"name": "origin", "type": "category", "nullable": False},
        ],
        "training": {"estimator": "sklearn.linear_model.LogisticRegression", "holdout": "1d"},
        **changes,
    }


def make_spec(**changes: Any) -> ModelSpec:
    return ModelSpec.model_validate(declaration(**changes))


def numbers_spec(*names: str, **changes: Any) -> ModelSpec:
    """A regression on nothing but numbers of these names."""
    changes = {"training": {"estimator": "sklearn.linear_model.LinearRegression", "holdout": "1d"}, **changes}
    features = [{"name": name, "type": "number"} for name in names]
    return make_spec(task="regression", label={"column": "y", "delay": "1h"}, features=features, **changes)


def make_frame(rows: int = 60, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """Valid rows, one an hour from `START` on, with holes in the features that may have some; `columns` replace whole columns."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "flight": [f"F{number}" for number in range(rows)],
            "at": pd.Series([START + timedelta(hours=number) for number in range(rows)], dtype="datetime64[us, UTC]"),
            "temp": random.normal(50.0, 15.0, rows).round(1),
            "seats": random.integers(20, 400, rows).astype(float),
            "night": random.integers(0, 2, rows).astype(float),
            "carrier": random.choice(np.array(["AA", "UA"], dtype=object), rows),
            "origin": random.choice(np.array(["EWR", "JFK"], dtype=object), rows),
            "late": pd.Series(np.arange(rows) % 2, dtype=object),
        }
    )
    for name in ("temp", "seats", "night", "carrier"):
        frame.loc[random.random(rows) < 0.15, name] = None
    return frame.assign(**columns)
