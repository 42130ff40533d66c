"""What every declared model is doing right now."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from mlops_assets.core.evaluation import Evaluation
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.stores import Stores

HEARTBEAT_MAX_AGE = timedelta(seconds=5)


@dataclass(frozen=True)
class ModelStatus:
    """One line of `mlops-assets status`; what is not there yet is None."""

    model: str
    task: str
    champion: int | None
    release: int | None
    since: datetime | None
    trained_until: datetime | None
    workers: str
    verdict: str


def model_status(stores: Stores, now: datetime) -> tuple[ModelStatus, ...]:
    """The state of every declared model."""
    return tuple(_status(stores, spec, now) for spec in declared_models().values())


def _status(stores: Stores, spec: ModelSpec, now: datetime) -> ModelStatus:
    plan = stores.releases.current(spec.name)
    if plan is None:
        return ModelStatus(spec.name, spec.task, None, None, None, None, "-", _verdict(stores, spec))
    live = stores.workers.live(now, HEARTBEAT_MAX_AGE)
    have = sum(spec.name in worker.models and worker.models[spec.name].release == plan.release for worker in live)
    manifest = stores.bundles.get(plan.champion.bundle).manifest
    workers = f"{have} of {len(live)}" if live else "none running"
    return ModelStatus(
        spec.name,
        spec.task,
        plan.champion.version,
        plan.release,
        plan.decided_at,
        manifest.training_end,
        workers,
        _verdict(stores, spec),
    )


def _verdict(stores: Stores, spec: ModelSpec) -> str:
    if not stores.lake.has(spec.name, "evaluation"):
        return "never judged"
    evaluation = stores.lake.read_document(spec.name, "evaluation", Evaluation)
    failed = [gate.gate for gate in evaluation.gates if not gate.passed]
    if failed:
        return f"v{evaluation.version} refused: {', '.join(failed)}"
    return f"v{evaluation.version} passed {len(evaluation.gates)} gates"
