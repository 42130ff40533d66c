"""What the benchmarks of the service serve: `flight_delay`, trained once by the lifecycle, in homes with one plan each.

Kept in `.mlops/bench`, or where `MLOPS_BENCH_FOLDER` says, until declarations or code that it is made from change. Who is measured
on it is told in the benchmarks.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from benchmarks.common import ROOT
from mlops_assets.core.rollout import Entrant, Origin, Release, ReleasePlan, promoted, promotion, trial
from mlops_assets.core.spec import ModelSpec
from mlops_assets.drills.ground import Ground
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.api_keys import ApiKeyStore
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.releases import ReleaseStore

MODEL: Final = "flight_delay"
PATH: Final = f"/v1/models/{MODEL}/predict"
ROWS: Final = 1_000
BATCH: Final = 100
FOLDER: Final = Path(os.environ.get("MLOPS_BENCH_FOLDER") or ROOT / ".mlops" / "bench").absolute()

Mode = Literal["alone", "canary", "shadow"]
Row = dict[str, Any]


@dataclass(frozen=True)
class ServingState:
    """The trained model, and what is made of it for those who are compared."""

    folder: Path

    @property
    def ground(self) -> Ground:
        return Ground(self.folder / "ground")

    @property
    def pipeline(self) -> Path:
        """The scikit-learn pipeline, pickled by joblib."""
        return self.folder / "pipeline.joblib"

    @property
    def mlflow_model(self) -> Path:
        return self.folder / "mlflow_model"

    @property
    def spec(self) -> ModelSpec:
        return declared_models(self.ground.declared)[MODEL]

    def rows(self) -> list[Row]:
        """Real flights with no value missing, as requests of one row: entity, event time, features."""
        found: list[Row] = json.loads((self.folder / "rows.json").read_text(encoding="utf-8"))
        return found

    def plan(self) -> ReleasePlan:
        """The one that the lifecycle has published."""
        plan = ReleaseStore(Home(self.ground.snapshot).releases).current(MODEL)
        assert plan is not None, "the lifecycle has released the model"
        return plan

    def body_file(self, name: str, bodies: list[bytes]) -> Path:
        """A file with a body a line, for the clients."""
        path = self.folder / "bodies" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\n".join(bodies) + b"\n")
        return path

    def home(self, name: str, mode: Mode = "alone", share: float = 0.1) -> Home:
        """A new home in which the model is released, alone or with a challenger of the same size on trial."""
        home = Home(self.folder / "homes" / name)
        shutil.rmtree(home.root, ignore_errors=True)
        first = self.entrant(home, 1)
        releases, origin = ReleaseStore(home.releases), origin_of("the first")
        plan = promotion(None, first, origin, model=MODEL, salt="bench")
        releases.publish(plan)
        if mode != "alone":
            releases.publish(trial(plan, self.entrant(home, 2), mode, share, origin_of("trial"), "bench"))
        return home

    def entrant(self, home: Home, version: int) -> Entrant:
        """The trained model, stored in a home under any version: another bundle with the same answers."""
        plan = self.plan()
        bundle = BundleStore(Home(self.ground.snapshot).bundles).get(plan.champion.bundle)
        manifest = msgspec.structs.replace(bundle.manifest, version=version)
        release = Release(version, BundleStore(home.bundles).put(manifest, bundle.files))
        return Entrant(release, tuple(one.name for one in manifest.features), plan.fallback_value, plan.as_of)


def prepared() -> ServingState:
    """The state, trained and made on the first call, which takes some minutes."""
    state = ServingState(FOLDER)
    state.ground.train(lambda text: print(f"{text} (kept in {FOLDER})"))  # noqa: T201
    key = (state.ground.snapshot / "trained-by").read_text()
    known = FOLDER / "made-of"
    if not known.is_file() or known.read_text() != key:
        _make(state)
        known.write_text(key)
    return state


def publish_next(home: Home, entrant: Entrant, why: str) -> ReleasePlan:
    """Publish the plan in which a version takes over; returns it."""
    releases = ReleaseStore(home.releases)
    current = releases.current(MODEL)
    assert current is not None
    plan = promoted(current, entrant, datetime.now(UTC) + timedelta(days=1), origin_of(why))
    releases.publish(plan)
    return plan


def key_headers(home: Home) -> Mapping[str, str]:
    """A new key that may do everything, as a client shows it."""
    _, secret = ApiKeyStore(home.root).create("bench", ("predict", "feedback", "admin"), "bench", datetime.now(UTC))
    return {"Authorization": f"Bearer {secret}"}


def single_bodies(rows: list[Row]) -> list[bytes]:
    """Requests of one row each."""
    return [msgspec.json.encode(row) for row in rows]


def batch_bodies(rows: list[Row]) -> list[bytes]:
    """The same rows in requests of `BATCH`."""
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return [msgspec.json.encode({"rows": batch}) for batch in batches]


def origin_of(why: str) -> Origin:
    """Where a plan of a benchmark comes from."""
    now = datetime.now(UTC)
    return Origin(f"bench-{now.isoformat()}", why, "benchmark", now)


def _make(state: ServingState) -> None:
    import joblib
    import mlflow.sklearn

    from mlops_assets.operations.traffic import live_rows

    ground, spec = state.ground, state.spec
    # MLflow keeps absolute paths, so that the trained state must stand where it was made.
    ground.restore((MODEL,))
    with ground.environment():
        version = state.plan().champion.version
        pipeline = Stores(ground.home).registry.load(MODEL, version)
        frame = live_rows(spec, spec.live_from, spec.live_from + timedelta(days=14))
    whole = frame[frame[list(spec.feature_names)].notna().all(axis=1)].head(ROWS)
    if len(whole) < ROWS:
        raise AssertionError(f"{len(whole)} flights have no value missing, and {ROWS} are wanted")
    joblib.dump(pipeline, state.pipeline)
    shutil.rmtree(state.mlflow_model, ignore_errors=True)
    # It warns of pickles, which are what this peer's documentation serves.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.sklearn.save_model(
        pipeline, state.mlflow_model, serialization_format="cloudpickle", pyfunc_predict_fn="predict_proba"
    )
    columns = {name: whole[name].tolist() for name in spec.feature_names}
    rows = [
        {
            "entity": str(entity),
            "event_time": moment.isoformat(),
            "features": {name: values[place] for name, values in columns.items()},
        }
        for place, (entity, moment) in enumerate(zip(whole[spec.entity_key], whole[spec.event_time], strict=True))
    ]
    (state.folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
