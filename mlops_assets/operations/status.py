"""What every declared model is doing right now."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from mlops_assets.core.evaluation import Evaluation
from mlops_assets.core.ledger import SEVERITIES
from mlops_assets.core.monitoring.watch import STOPPED, told
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.watching import read_heartbeat, something_waits, watch_monitor
from mlops_assets.stores.bundles import BundleError
from mlops_assets.stores.database import LedgerUnavailable

HEARTBEAT_MAX_AGE = timedelta(seconds=5)


@dataclass(frozen=True)
class ModelStatus:
    """One line of `mlops-assets status`; what is not there yet is None.

    `monitor_stopped` says that the model's monitor has stopped or fails while something waits for it; `incidents` are those that
    are open, and `automation` tells whether anything is done by itself, and what waits for a person's leave.
    """

    model: str
    task: str
    champion: int | None
    release: int | None
    since: datetime | None
    trained_until: datetime | None
    workers: str
    verdict: str
    health: str = "-"
    monitor: str = "never looked"
    monitor_stopped: bool = False
    incidents: str = "-"
    automation: str = "on"


def model_status(stores: Stores, specs: Iterable[ModelSpec], now: datetime) -> tuple[ModelStatus, ...]:
    """The state of declared models."""
    return tuple(_status(stores, spec, now) for spec in specs)


def _status(stores: Stores, spec: ModelSpec, now: datetime) -> ModelStatus:
    plan = stores.releases.current(spec.name)
    watched = (_health(stores, spec), *_monitor(stores, spec, now), *_of_ledger(stores, spec))
    if plan is None:
        return ModelStatus(spec.name, spec.task, None, None, None, None, "-", _verdict(stores, spec), *watched)
    live = stores.workers.live(now, HEARTBEAT_MAX_AGE)
    have = sum(spec.name in worker.models and worker.models[spec.name].release == plan.release for worker in live)
    workers = f"{have} of {len(live)}" if live else "none running"
    try:
        trained_until = stores.bundles.get(plan.champion.bundle).manifest.training_end
    except BundleError:
        trained_until, workers = None, f"{workers}; its bundle is lost or damaged"
    return ModelStatus(
        spec.name,
        spec.task,
        plan.champion.version,
        plan.release,
        plan.decided_at,
        trained_until,
        workers,
        _verdict(stores, spec),
        *watched,
    )


def _health(stores: Stores, spec: ModelSpec) -> str:
    """The verdicts on the newest window that has been looked at."""
    monitor = Monitor(spec, stores)
    data, model = monitor.newest_data_health(), monitor.newest_model_health(1)
    if data is None and not model:
        return "-"
    window = data.window if data is not None else model[-1].window
    told_of = [f"data {data.verdict}"] if data is not None else []
    return f"{window}: {', '.join([*told_of, *(f'model {one.verdict}' for one in model)])}"


def _monitor(stores: Stores, spec: ModelSpec, now: datetime) -> tuple[str, bool]:
    """What the monitor last said of itself, and whether it has stopped while something waits."""
    heartbeat = read_heartbeat(spec, stores)
    signs = watch_monitor(spec, stores, now)
    stopped = any(sign.trouble in STOPPED for sign in signs) and something_waits(spec, stores)
    if signs:
        return told(signs), stopped
    if heartbeat is None:
        return "never looked", False
    return f"looked {max(0, round((now - heartbeat.at).total_seconds()))} s ago", False


def _of_ledger(stores: Stores, spec: ModelSpec) -> tuple[str, str]:
    """The open incidents, and what is done by itself."""
    try:
        record = stores.ledger.of(spec.name)
    except LedgerUnavailable as error:
        return "unknown", f"the ledger is out of reach: {error}"
    counts = Counter(one.severity for one in record.open_incidents)
    incidents = ", ".join(f"{counts[one]} {one}" for one in reversed(SEVERITIES) if counts[one])
    told = []
    if record.retired is not None:
        told.append(f"retired: {record.retired}")
    if record.frozen is not None:
        told.append(f"frozen: {record.frozen}")
    told += [f"{one.what.action} waits for approval ({one.id})" for one in record.decisions if one.waits_for_approval]
    told += [f"{one.what.action} under way" for one in record.open_decisions if one.running]
    return incidents or "-", "; ".join(told) or "on"


def _verdict(stores: Stores, spec: ModelSpec) -> str:
    if not stores.lake.has(spec.name, "evaluation"):
        return "never judged"
    evaluation = stores.lake.read_document(spec.name, "evaluation", Evaluation)
    failed = [gate.gate for gate in evaluation.gates if not gate.passed]
    if failed:
        return f"v{evaluation.version} refused: {', '.join(failed)}"
    return f"v{evaluation.version} passed {len(evaluation.gates)} gates"
