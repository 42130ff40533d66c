"""Small real models in a temporary home: trained, compiled or dumped, bundled and released like any other."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
import skops.io
from sklearn.pipeline import Pipeline

from mlops_assets.core.contract import make_contract
from mlops_assets.core.imputation import make_plan
from mlops_assets.core.manifest import FeatureContract, ImputationPlan, Manifest
from mlops_assets.core.rollout import Release, ReleasePlan
from mlops_assets.core.scoring.compile import compile_pipeline
from mlops_assets.core.scoring.load import load_scorer
from mlops_assets.core.scoring.scorer import GoldenRows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import find_classes, fit_pipeline, predict
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.releases import ReleaseStore

Task = Literal["binary", "multiclass", "regression"]

START = datetime(2013, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SmallModel:
    """A fitted model, its bundle's content, and rows it has not seen."""

    spec: ModelSpec
    pipeline: Pipeline
    manifest: Manifest
    files: dict[str, bytes]
    fresh: pd.DataFrame

    @property
    def features(self) -> tuple[str, ...]:
        return self.spec.feature_names

    def request_rows(self, count: int) -> list[dict[str, Any]]:
        """Fresh rows as a caller sends them: missing values left out."""
        records = self.fresh[list(self.features)].head(count).astype(object).to_dict("records")
        return [
            {name: _json(self, name, value) for name, value in row.items() if not _missing(value)} for row in records
        ]

    def expected(self, count: int) -> np.ndarray:
        """What the pipeline itself answers for them, shape (count, K)."""
        return predict(self.pipeline, self.fresh[list(self.features)].head(count))


def small_spec(name: str = "delay", task: Task = "binary", **overrides: Any) -> ModelSpec:
    """A model with a number, an integer, a boolean, two categories, and one feature that must not be missing."""
    classes = {"binary": (0, 1), "multiclass": ("early", "late", "on time"), "regression": None}[task]
    declaration: dict[str, Any] = {
        "name": name,
        "owner": "team:tests",
        "task": task,
        "source": {"table": "unused.parquet"},
        "entity_key": "flight",
        "event_time": "at",
        "live_from": "2013-03-01T00:00:00Z",
        "label": {"column": "outcome", "delay": "1d", "classes": classes},
        "features": [
            {"name": "temp", "type": "number", "unit": "F", "minimum": -40, "maximum": 130},
            {"name": "seats", "type": "integer", "minimum": 1, "maximum": 500},
            {"name": "holiday", "type": "boolean"},
            {"name": "carrier", "type": "category", "categories": ["AA", "B6", "UA"]},
            {"name": "air port", "type": "category"},
            {"name": "distance", "type": "number", "unit": "mi", "minimum": 0, "nullable": False},
        ],
        "training": {
            "estimator": {
                "binary": "sklearn.ensemble.HistGradientBoostingClassifier",
                "multiclass": "sklearn.ensemble.RandomForestClassifier",
                "regression": "sklearn.ensemble.HistGradientBoostingRegressor",
            }[task],
            "parameters": {"n_estimators": 10, "max_depth": 5} if task == "multiclass" else {"max_iter": 20},
            "holdout": "5d",
        },
    }
    return ModelSpec.model_validate({**declaration, **overrides})


def small_rows(task: Task, rows: int, seed: int) -> pd.DataFrame:
    """Rows with holes in every nullable feature, in event-time order."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "flight": [f"F{number}" for number in range(rows)],
            "at": [START + timedelta(minutes=number) for number in range(rows)],
            "temp": random.normal(55, 15, rows).clip(-30, 120),
            "seats": random.integers(20, 400, rows).astype(float),
            "holiday": (random.random(rows) < 0.2).astype(float),
            "carrier": random.choice(["AA", "B6", "UA"], rows).astype(object),
            "air port": random.choice(["EWR", "JFK", "LGA"], rows).astype(object),
            "distance": random.uniform(100, 2500, rows),
        }
    )
    score = frame["distance"] / 1000 - frame["temp"] / 60 + (frame["carrier"] == "B6") + random.normal(0, 0.5, rows)
    for name in ("temp", "seats", "holiday", "carrier", "air port"):
        frame.loc[random.random(rows) < 0.1, name] = None if name in ("carrier", "air port") else np.nan
    if task == "binary":
        frame["outcome"] = (score > 0.8).astype(int)
    elif task == "multiclass":
        frame["outcome"] = np.select([score < 0, score > 1], ["early", "late"], "on time").astype(object)
    else:
        frame["outcome"] = score * 30
    return frame


@cache
def small_model(name: str = "delay", task: Task = "binary", version: int = 1, compiled: bool = True) -> SmallModel:
    """Train a small model; versions differ in their training rows, and so in their answers."""
    spec = small_spec(name, task)
    rows = small_rows(task, 1500, seed=version)
    plan = make_plan(spec, rows)
    classes = find_classes(spec, rows["outcome"])
    pipeline = fit_pipeline(spec, rows, plan, classes)
    fresh = small_rows(task, 400, seed=1000 + version)
    files, uncompiled, trusted = _compile(pipeline, make_contract(spec, rows)) if compiled else _dump(pipeline)
    manifest = manifest_of(spec, rows, plan, classes, version, START, START + timedelta(days=59))
    manifest = msgspec.structs.replace(manifest, threshold=0.4, uncompiled=uncompiled, trusted_types=trusted)
    scorer = load_scorer(manifest, files)
    golden = fresh[list(spec.feature_names)].tail(5).astype(object)
    golden_rows = [[None if _missing(value) else value for value in row] for row in golden.itertuples(index=False)]
    files["golden.json"] = GoldenRows.make(scorer, golden_rows).to_json()
    return SmallModel(spec, pipeline, manifest, files, fresh)


def manifest_of(
    spec: ModelSpec,
    rows: pd.DataFrame,
    plan: ImputationPlan,
    classes: tuple[str | int, ...],
    version: int,
    start: datetime,
    end: datetime,
) -> Manifest:
    """What a training on these rows, from `start` to `end`, writes down of a compiled model."""
    return Manifest(
        model=spec.name,
        version=version,
        task=spec.task,
        features=make_contract(spec, rows),
        label=spec.label.column,
        classes=classes,
        threshold=spec.evaluation.decision_threshold,
        imputation=plan,
        entity_key=spec.entity_key,
        event_time=spec.event_time,
        as_of=end,
        training_start=start,
        training_end=end,
        training_rows=len(rows),
        data_hash=f"hash-{version}",
        code_version="test",
        libraries={},
        metrics={},
        mlflow_run="run",
        dagster_run="run",
        fallback_value=None,
        uncompiled=None,
        trusted_types=(),
        files={},
    )


def release(
    home: Home, model: SmallModel, reason: str = "test", damage: Callable[[dict[str, bytes]], None] | None = None
) -> ReleasePlan:
    """Put the model's bundle into the home and publish the next plan with it as champion."""
    files = dict(model.files)
    if damage is not None:
        damage(files)
    bundle = BundleStore(home.bundles).put(model.manifest, files)
    return publish(home, model.manifest.model, Release(model.manifest.version, bundle), reason)


def publish(home: Home, model: str, champion: Release, reason: str = "test") -> ReleasePlan:
    """Publish the next plan with this champion."""
    store = ReleaseStore(home.releases)
    current = store.current(model)
    previous = current.release if current is not None else 0
    plan = ReleasePlan(
        model=model,
        release=previous + 1,
        previous=previous,
        rollout="r-1",
        salt="salt",
        champion=champion,
        challenger=None,
        standby=None,
        last_good=None,
        fallback_value=None,
        withdrawn=(),
        reason=reason,
        decided_by="user:test",
        decided_at=datetime.now(UTC),
        as_of=START + timedelta(days=59),
    )
    store.publish(plan)
    return plan


def corrupt(home: Home, bundle: str, name: str = "scorer.npz") -> None:
    """Flip a byte of a stored bundle's file."""
    path = BundleStore(home.bundles).path(bundle) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _compile(
    pipeline: Pipeline, contract: tuple[FeatureContract, ...]
) -> tuple[dict[str, bytes], None, tuple[str, ...]]:
    npz, layout = compile_pipeline(pipeline, contract).to_files()
    return {"scorer.npz": npz, "scorer.json": layout}, None, ()


def _dump(pipeline: Pipeline) -> tuple[dict[str, bytes], str, tuple[str, ...]]:
    dumped = skops.io.dumps(pipeline)
    return {"pipeline.skops": dumped}, "for a test", tuple(skops.io.get_untrusted_types(data=dumped))


def _missing(value: Any) -> bool:
    return value is None or value != value


def _json(model: SmallModel, name: str, value: Any) -> Any:
    kind = model.spec.feature(name).type
    return bool(value) if kind == "boolean" else value


def answered_outputs(model: SmallModel, answer: dict[str, Any]) -> list[float]:
    """The model's outputs as an answer carries them, in the order of the pipeline's."""
    if model.manifest.task == "binary":
        return [1 - answer["probability"], answer["probability"]]
    if model.manifest.task == "multiclass":
        return [answer["probabilities"][str(name)] for name in model.manifest.classes]
    return [answer["prediction"]]
