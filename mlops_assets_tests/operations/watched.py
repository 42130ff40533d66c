"""A small released model with a reference, and traffic in its log: what the monitors look at."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from mlops_assets.core.contract import make_contract, raw_rows
from mlops_assets.core.imputation import make_plan
from mlops_assets.core.manifest import Manifest
from mlops_assets.core.records import LabelRecord, PredictionRecord
from mlops_assets.core.rollout import Release
from mlops_assets.core.scoring.compile import compile_pipeline
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import find_classes, fit_pipeline, predict, split_training_rows
from mlops_assets.operations.live_traffic import compact, ingest, stale_windows
from mlops_assets.operations.reference import reference_files
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import LogWriter
from mlops_assets_tests.serving.factory import manifest_of, publish

Task = Literal["binary", "multiclass", "regression"]

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
LIVE_FROM = datetime(2024, 3, 1, tzinfo=UTC)
ROWS_A_DAY = 120
CLASSES: dict[str, tuple[str | int, ...] | None] = {
    "binary": (0, 1),
    "multiclass": ("early", "late", "on time"),
    "regression": None,
}


def watched_spec(task: Task = "binary", **changes: Any) -> ModelSpec:
    declared: dict[str, Any] = {
        "name": "delay",
        "owner": "team:tests",
        "task": task,
        "source": {"table": "unused.parquet"},
        "entity_key": "flight",
        "event_time": "at",
        "live_from": LIVE_FROM,
        "label": {"column": "outcome", "delay": "2d", "classes": CLASSES[task]},
        "features": [
            {"name": "temp", "type": "number", "unit": "°F"},
            {"name": "wind", "type": "number", "unit": "mph"},
            {"name": "carrier", "type": "category"},
            {"name": "night", "type": "boolean"},
        ],
        "evaluation": {"bootstrap_resamples": 50},
        "training": {
            "estimator": "sklearn.linear_model.LinearRegression"
            if task == "regression"
            else "sklearn.linear_model.LogisticRegression",
            "number_transformer": {"estimator": "sklearn.preprocessing.StandardScaler"},
            "holdout": "20d",
        },
        **changes,
    }
    return ModelSpec.model_validate(declared)


def watched_rows(task: Task, begin: datetime, days: int, seed: int, rows_a_day: int = ROWS_A_DAY) -> pd.DataFrame:
    """Rows without any drift: the same world every day."""
    random, count = np.random.default_rng(seed), days * rows_a_day
    carrier = random.choice(["AA", "UA", "DL"], count, p=[0.5, 0.3, 0.2])
    temp, wind = random.normal(50, 15, count), random.gamma(2, 5, count)
    score = (50 - temp) / 15 + (wind - 10) / 7 + (carrier == "UA") + random.normal(0, 1, count)
    outcome: Any = score * 10
    if task == "binary":
        outcome = (score > 0.5).astype(int)
    elif task == "multiclass":
        outcome = np.select([score < -0.5, score > 1.0], ["early", "late"], "on time").astype(object)
    return pd.DataFrame(
        {
            "flight": [f"F{seed}-{number}" for number in range(count)],
            "at": pd.date_range(begin, periods=count, freq=timedelta(days=1) / rows_a_day).astype(
                "datetime64[us, UTC]"
            ),
            "temp": np.where(random.random(count) < 0.03, np.nan, temp),
            "wind": wind,
            "carrier": carrier.astype(object),
            "night": (random.random(count) < 0.3).astype(float),
            "outcome": outcome,
        }
    )


@dataclass(frozen=True)
class Fit:
    spec: ModelSpec
    pipeline: Pipeline
    manifest: Manifest
    files: dict[str, bytes]


@cache
def watched_fit(task: Task = "binary", version: int = 1) -> Fit:
    """Versions above the first are trained on labels that mean nothing, and answer accordingly."""
    spec = watched_spec(task)
    rows = watched_rows(task, BEGIN, 60, seed=version)
    if version > 1:
        rows["outcome"] = np.random.default_rng(version).permutation(rows["outcome"].to_numpy())
    split = split_training_rows(spec, rows, LIVE_FROM)
    plan, classes = make_plan(spec, split.fit), find_classes(spec, rows["outcome"])
    pipeline = fit_pipeline(spec, split.fit, plan, classes)
    npz, layout = compile_pipeline(pipeline, make_contract(spec, rows)).to_files()
    files = {"scorer.npz": npz, "scorer.json": layout, "golden.json": b"[]"}
    manifest = manifest_of(spec, rows, plan, classes, version, BEGIN, LIVE_FROM)
    return Fit(spec, pipeline, manifest, {**files, **reference_files(spec, pipeline, plan, classes, split)})


@dataclass(frozen=True)
class Watched:
    """A home in which a model is released."""

    fit: Fit
    stores: Stores
    bundle: str

    @property
    def spec(self) -> ModelSpec:
        return self.fit.spec

    @classmethod
    def released(cls, home: Path, task: Task = "binary", version: int = 1) -> "Watched":
        fit, stores = watched_fit(task, version), Stores(Home(home))
        bundle = BundleStore(stores.home.bundles).put(fit.manifest, fit.files)
        publish(stores.home, fit.spec.name, Release(version, bundle))
        return cls(fit, stores, bundle)

    def log(
        self,
        rows: pd.DataFrame,
        *,
        labels: bool = True,
        status: Iterable[int] | None = None,
        worker: str = "w",
        observed_at: datetime | None = None,
    ) -> None:
        """Append the answers to these rows, and their labels, and seal the segment."""
        features = list(self.spec.feature_names)
        outputs = predict(self.fit.pipeline, rows[features])
        raw = raw_rows(self.fit.manifest.features, rows)
        codes = list(status) if status is not None else [200] * len(rows)
        writer = LogWriter(self.stores.home.prediction_log, worker)
        now = datetime.now(UTC)
        records: list[Any] = []
        for at, (flight, moment, truth) in enumerate(
            zip(rows["flight"], (one.to_pydatetime() for one in rows["at"]), rows["outcome"].tolist(), strict=True)
        ):
            good = codes[at] == 200
            records.append(
                PredictionRecord(
                    id=f"id-{flight}",
                    model=self.spec.name,
                    version=self.fit.manifest.version,
                    bundle=self.bundle,
                    release=1,
                    rollout="r",
                    role="champion",
                    event_time=moment,
                    served_at=now,
                    entity=flight,
                    features=raw[at] if good else (),
                    output=tuple(outputs[at].tolist()) if good else (),
                    latency_ms=1.0,
                    status=codes[at],
                    error=None if good else "it broke",
                )
            )
            if labels and good:
                observed = observed_at or moment + self.spec.label.delay
                records.append(LabelRecord(self.spec.name, "outcome", truth, observed, now, id=f"id-{flight}"))
        writer.append(records)
        writer.close()

    def compacted(self) -> list[str]:
        """Make the table of every window that has something new; returns them."""
        ingest(self.stores, [self.spec])
        windows = sorted(stale_windows(self.spec, self.stores))
        for window in windows:
            compact(self.spec, self.stores, window)
        return windows
