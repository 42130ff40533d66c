"""A released model whose verdicts a test writes, its sensors on a real instance, and a lifecycle whose fate a test decides."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import msgspec
import pyarrow as pa

from mlops_assets.assets.raw_data import RawDataConfig
from mlops_assets.core.evaluation import Interval, PairedComparison
from mlops_assets.core.ledger import Decision, Entry, Fact, Record
from mlops_assets.core.live_traffic import LiveWindow
from mlops_assets.core.monitoring.health import Cohort, DataHealth, Former, ModelHealth, ServiceRecord
from mlops_assets.core.rollout import Entrant, Origin, Release, ReleasePlan, promotion
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.ingestion import TABLES
from mlops_assets.operations.readings import DATA_HEALTH, MODEL_HEALTH
from mlops_assets.operations.replay import MemoryRegistry
from mlops_assets.operations.stores import Stores
from mlops_assets.resources import StoresResource
from mlops_assets.sensors.response import response_sensor
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
from mlops_assets.stores.registry import Registry
from mlops_assets.stores.releases import ReleaseStore
from mlops_assets_tests.operations.health_examples import model_windows
from mlops_assets_tests.serving.factory import SmallModel, small_model, small_spec

FIRST = datetime(2013, 3, 1, tzinfo=UTC)
FETCHED = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
LABELLED = 800
NOT_BETTER = "brier_not_worse_than_champion"

Asked = list[dg.RunRequest] | str


class Untracked(MemoryRegistry):
    """A registry in memory beside an MLflow that has no runs."""

    @property
    def client(self) -> Any:
        return SimpleNamespace(get_experiment_by_name=lambda name: None)


@dataclass(frozen=True)
class PatientStores(Stores):
    @cached_property
    def registry(self) -> Registry:
        return Untracked("memory:", "")


class PatientResource(StoresResource):
    def open(self) -> Stores:
        return PatientStores(Home(Path(self.home)))


@cache
def _judged() -> ModelHealth:
    return model_windows(windows=2)[0]


def day(number: int) -> str:
    return (FIRST + timedelta(days=number)).strftime("%Y-%m-%d")


def better(version: int) -> Former:
    """An earlier version that is better on the same rows."""
    return Former(version, PairedComparison("brier", 300, 0.21, 0.25, Interval(0.04, 0.02, 0.06)), True)


class Patient:
    """Version 2 serves, after version 1; version 3 is what a training would release."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, **response: Any) -> None:
        self.spec: ModelSpec = small_spec(response=response)
        self.instance, self.home = instance, Home(folder / "home")
        self.fate = "release"
        self.cursor: str | None = None
        self.launched: list[str] = []
        for version in (1, 2):
            self.release(version, "user:test")
        self.start()

    def start(self) -> None:
        """Load all definitions afresh, and forget the cursor, as a new process on another machine would."""
        job = dg.define_asset_job("delay_lifecycle", selection=dg.AssetSelection.all())
        sensor = response_sensor(self.spec)
        resources = {"stores": PatientResource(home=str(self.home.root))}
        self.definitions = dg.Definitions(_lifecycle(self), jobs=[job], sensors=[sensor], resources=resources)
        self.cursor = None

    @property
    def stores(self) -> Stores:
        return PatientStores(self.home)

    @property
    def record(self) -> Record:
        return self.stores.ledger.of("delay")

    @property
    def plans(self) -> tuple[ReleasePlan, ...]:
        return ReleaseStore(self.home.releases).history("delay")

    @property
    def champion(self) -> int:
        return self.plans[-1].champion.version

    def decision(self, action: str) -> Decision:
        """The one decision for an action."""
        [one] = [one for one in self.record.decisions if one.what.action == action]
        return one

    def write(self, subject: str, fact: Fact, actor: str = "user:ann") -> None:
        self.stores.ledger.record(Entry("delay", subject, fact, actor, datetime.now(UTC)))

    def release(self, version: int, decided_by: str) -> None:
        """Release a version as a lifecycle run does, unless it serves already."""
        model, plans = _model(version), ReleaseStore(self.home.releases)
        bundle = BundleStore(self.home.bundles).put(model.manifest, model.files)
        current = plans.current("delay")
        if current is not None and current.champion.version == version:
            return
        entrant = Entrant(Release(version, bundle), model.features, None, model.manifest.as_of)
        origin = Origin(f"release-{version}", f"version {version} passed", decided_by, datetime.now(UTC))
        plans.publish(promotion(current, entrant, origin, model="delay", salt="salt"))

    def judge(self, number: int, *, decayed: bool = False, former: Former | None = None, **data: Any) -> None:
        """Write the verdicts on one day, as the monitors would."""
        lake, window, begin = self.stores.lake, day(number), FIRST + timedelta(days=number)
        end, served = begin + timedelta(days=1), FETCHED + timedelta(minutes=number)
        about = LiveWindow(
            window, "c", LABELLED, LABELLED, LABELLED, 0, 0, 0, 0, 0, 1.0, 2.0, served, served, begin, end
        )
        lake.write_arrow("delay", f"{TABLES}/{window}", pa.table({}), msgspec.to_builtins(about))
        place: dict[str, Any] = {
            "model": "delay",
            "window": window,
            "begin": begin,
            "end": end,
            "version": self.champion,
        }
        healthy = DataHealth(
            **place, bundle="b", rows=LABELLED, verdict="healthy", reasons=(), culprits=(), broken=(), unseen={},
            confidence="", drift=None,
        )  # fmt: skip
        lake.write_document("delay", f"{DATA_HEALTH}/{window}", msgspec.structs.replace(healthy, **data))
        verdict, reasons = ("unhealthy", ("brier 0.25 instead of 0.16",)) if decayed else ("healthy", ())
        model = msgspec.structs.replace(
            _judged(),
            **place,
            verdict=verdict,
            reasons=reasons,
            decayed=decayed,
            former=former,
            cohort=Cohort(LABELLED, LABELLED, LABELLED),
            service=ServiceRecord(LABELLED, 0, 0, 0, 1.0, 2.0),
        )
        lake.write_document("delay", f"{MODEL_HEALTH}/{window}", model)

    def tick(self) -> Asked:
        """What the response sensor asks for, or why it asks for nothing."""
        with dg.build_sensor_context(
            self.instance,
            cursor=self.cursor,
            definitions=self.definitions,
            sensor_name="delay_response",
            resources={"stores": PatientResource(home=str(self.home.root))},
        ) as context:
            data = self.definitions.resolve_sensor_def("delay_response").evaluate_tick(context)
        self.cursor = data.cursor or self.cursor
        return list(data.run_requests or []) or (data.skip_message or "")

    def launch(self, request: dg.RunRequest) -> None:
        """Execute a requested run as the daemon does: once for each run key."""
        if request.run_key in self.launched:
            return
        self.launched.append(request.run_key or "")
        self.execute({**request.tags, "dagster/run_key": request.run_key or ""}, request.run_config)

    def execute(self, tags: dict[str, str] | None = None, config: Any = None) -> bool:
        job = self.definitions.resolve_job_def("delay_lifecycle")
        return job.execute_in_process(
            instance=self.instance, tags=tags, run_config=config, raise_on_error=False
        ).success

    def begin(self, request: dg.RunRequest) -> str:
        """Start a requested run and come to no end."""
        job = self.definitions.resolve_job_def("delay_lifecycle")
        tags = dict(request.tags)
        return self.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags).run_id

    def live(self, restarting: bool = False, most: int = 12) -> list[Asked]:
        """Tick, and execute what is asked for, until nothing is asked for any more."""
        seen: list[Asked] = []
        for _ in range(most):
            if restarting:
                self.start()
            seen.append(self.tick())
            if isinstance(seen[-1], str):
                return seen
            for request in seen[-1]:
                self.launch(request)
        raise AssertionError(f"it comes to no rest: {seen}")


def _model(version: int) -> SmallModel:
    return small_model(version=version)


def _lifecycle(patient: Patient) -> list[dg.AssetsDefinition]:
    key = dg.AssetKey(["delay", "evaluation"])

    @dg.asset(key=["delay", "raw_data"])
    def raw_data(config: RawDataConfig) -> dg.MaterializeResult:
        if patient.fate == "crash":
            raise dg.Failure("out of memory", allow_retries=False)
        return dg.MaterializeResult(metadata={name: str(value) for name, value in config.model_dump().items()})

    @dg.asset(
        key=key,
        deps=[raw_data],
        check_specs=[dg.AssetCheckSpec(name, asset=key, blocking=True) for name in ("roc_auc_at_least", NOT_BETTER)],
    )
    def evaluation() -> dg.MaterializeResult:
        fails = {"refused": "roc_auc_at_least", "not better": NOT_BETTER}.get(patient.fate)
        checks = [
            dg.AssetCheckResult(check_name=name, passed=name != fails, description=f"{name} says so")
            for name in ("roc_auc_at_least", NOT_BETTER)
        ]
        return dg.MaterializeResult(check_results=checks)

    @dg.asset(key=["delay", "deployed_bento"], deps=[evaluation])
    def deployed_bento(context: dg.AssetExecutionContext) -> None:
        if patient.fate == "release":
            patient.release(3, f"run:{context.run.run_id}")

    return [raw_data, evaluation, deployed_bento]


def only(asked: Asked) -> dg.RunRequest:
    assert isinstance(asked, list), asked
    [one] = asked
    return one


Between = Callable[[], None]
