"""Small random tables, and pipelines of the declared shape fitted on them."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from mlops_assets.core.imputation import make_plan
from mlops_assets.core.manifest import FeatureContract
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import find_classes, fit_pipeline

LEVELS = {"carrier": ("AA", "B6", "UA", "WN"), "origin": ("EWR", "JFK", "LGA", "")}
NUMBERS = ("distance", "seats", "temp")


def make_spec(task: str = "binary", estimator: str = "sklearn.dummy.DummyRegressor", **options: Any) -> ModelSpec:
    """A declaration with three numbers, a flag, two categories and a feature that is nearly empty."""
    training = {"holdout": "1d", "estimator": estimator, **options.pop("training", {})}
    return ModelSpec(
        name="toy",
        owner="team:tests",
        task=task,
        source={"table": "toy.parquet"},
        entity_key="id",
        event_time="at",
        live_from="2013-03-01T00:00:00Z",
        label={"column": "y", "delay": "1h"},
        features=[
            {"name": "carrier", "type": "category"},
            {"name": "distance", "type": "number", "minimum": 0.0, "maximum": 5000.0},
            {"name": "seats", "type": "integer"},
            {"name": "origin", "type": "category", "categories": LEVELS["origin"]},
            {"name": "empty", "type": "number"},
            {"name": "temp", "type": "number"},
            {"name": "night", "type": "boolean"},
        ],
        training=training,
        **options,
    )


def make_table(rows: int = 400, seed: int = 0, task: str = "binary", missing: float = 0.1) -> pd.DataFrame:
    """Rows with missing values, values on a coarse grid among them, and a label that depends on them."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "carrier": generator.choice(np.array(LEVELS["carrier"], dtype=object), rows),
            "distance": generator.gamma(2.0, 400.0, rows),
            "seats": generator.integers(1, 30, rows) * 10.0,
            "origin": generator.choice(np.array(LEVELS["origin"], dtype=object), rows),
            "empty": np.where(generator.random(rows) < 0.01, 1.0, np.nan),
            "temp": generator.normal(10.0, 8.0, rows).round(1),
            "night": generator.integers(0, 2, rows).astype(np.float64),
        }
    )
    signal = frame["distance"] / 500 + frame["temp"] / 10 + (frame["carrier"] == "UA") * 2 - (frame["origin"] == "JFK")
    signal = (signal + generator.normal(0, 0.5, rows)).to_numpy()
    if task == "regression":
        frame["y"] = np.exp(signal / 4)
    else:
        edges = [2.5] if task == "binary" else [1.5, 3.5]
        frame["y"] = np.digitize(signal, edges).astype(str)
    for name in ("carrier", "distance", "seats", "origin", "temp"):
        frame.loc[generator.random(rows) < missing, name] = None
    return frame


def fit(spec: ModelSpec, table: pd.DataFrame) -> tuple[Pipeline, tuple[FeatureContract, ...]]:
    """The fitted pipeline of a declaration, and the contract that goes with it."""
    pipeline = fit_pipeline(spec, table, make_plan(spec, table), find_classes(spec, table["y"]))
    return pipeline, make_contract(spec, table)


def make_contract(spec: ModelSpec, table: pd.DataFrame) -> tuple[FeatureContract, ...]:
    """The contract: declared levels, or those seen."""
    contract = []
    for feature in spec.features:
        levels = None
        if feature.is_category:
            levels = feature.categories or tuple(sorted(table[feature.name].dropna().unique()))
        contract.append(
            FeatureContract(feature.name, feature.type, minimum=feature.minimum, maximum=feature.maximum, levels=levels)
        )
    return tuple(contract)
