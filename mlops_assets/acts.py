"""The demonstration's three acts: a season, a dead feed and a bad release, on real flights, healed by the daemon alone.

Nothing here heals anything: it sends, breaks, waits for what the sensors do, and tells of it.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from rich.console import Console

from mlops_assets.core.ledger import Incident
from mlops_assets.core.metrics import METRICS
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import encode_label, predict
from mlops_assets.drills.ground import Ground
from mlops_assets.drills.stage import EVERY_S, LOOK_S, DrillFailed, Stage
from mlops_assets.drills.system import Program, System, running_system
from mlops_assets.drills.trials import promoted
from mlops_assets.operations.rollback import force_release
from mlops_assets.operations.supervise import free_port
from mlops_assets.operations.traffic import Traffic
from mlops_assets.stores.home import Home

T = TypeVar("T")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
DEAD_DAYS = 3
WAIT_S = 240.0
UI_PORT = 3000


@dataclass(frozen=True)
class OwnGround(Ground):
    """The project itself and its own state, instead of a copy."""

    own: Home

    @property
    def project(self) -> Path:
        return self.folder

    @property
    def home(self) -> Home:
        return self.own


@dataclass
class LivingStage(Stage):
    """A stage that fails at once when the Dagster UI and daemon have ended: nothing would heal any more."""

    dagster: Program | None = None

    def wait(self, what: Callable[[], T | None], told: str, timeout_s: float = LOOK_S, every_s: float = EVERY_S) -> T:
        def alive_or_done() -> T | None:
            if self.dagster is not None and not self.dagster.is_running:
                raise DrillFailed(f"`dagster dev` has ended while waiting ({told}):\n{self.dagster.said()}")
            return what()

        return super().wait(alive_or_done, told, timeout_s, every_s)


@contextmanager
def living_system(out: Console, project: Path, home: Home) -> Iterator[tuple[System, Program]]:
    """The service, and `dagster dev` with its daemon and UI, for the length of a block."""
    ground = OwnGround(project, home)
    with running_system(ground, daemon=False) as system:
        port = UI_PORT if _is_free(UI_PORT) else free_port()
        arguments = ("-m", "dagster", "dev", "--host", "127.0.0.1", "--port", str(port))
        ui = Program("Dagster UI", arguments, project, home.root / "dagster-dev.log")
        ui.start()
        try:
            out.print(f"  service on {system.url}; follow everything in the Dagster UI on http://127.0.0.1:{port}")
            yield system, ui
        finally:
            ui.end()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def stage_of(spec: ModelSpec, system: System, dagster: Program, say: Callable[[str], None]) -> Stage:
    """A stage on which `spec`'s acts are told, a line each."""
    return LivingStage(spec, system, say, dagster=dagster)


def without_weather(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """The last days of flights as they would come if the weather feed were dead."""
    zone = spec.monitoring.timezone
    days = rows[spec.event_time].dt.tz_convert(zone).dt.normalize()
    dead = days > days.max() - pd.Timedelta(days=DEAD_DAYS)
    broken = rows.copy()
    for name in WEATHER:
        if name in spec.feature_names:
            broken[name] = broken[name].where(~dead)
    return broken


def season(stage: Stage, flights: pd.DataFrame) -> None:
    """Act one: the winter's winds fade, the model's errors grow, and it is trained and released anew by itself.

    Parameters
    ----------
    flights
        What comes after the traffic that was sent already; where the new version is put on trial, its first days are those of the
        trial.
    """
    before = stage.champion()
    stage.step("labels are in: windows are compacted and judged, one after the other, until the sensor decides")
    decision = stage.wait(lambda: stage.decided("retrain"), "air_time decays and a training is decided", WAIT_S)
    incident = stage.incident("performance")
    stage.require(incident is not None, "an incident is open for the model's performance")
    stage.step(f"decided: retrain ({decision.what.mode}), because {decision.what.reason}")
    stage.step("the run trains, asks the gates, fits once more on all that is known, and releases: some minutes")
    days = _by_day(stage.spec, flights)
    promoted(stage, before, days, WAIT_S)
    plan = stage.plan()
    stage.step(f"released by itself: version {plan.champion.version} with release {plan.release}; {plan.reason}")
    left = list(days)
    if not left:
        raise DrillFailed(
            f"version {plan.champion.version} was promoted by the last of the flights: none is left to show it by"
        )
    flights = pd.concat(left, ignore_index=True)
    traffic = stage.send(flights)
    stage.label(traffic)
    now, then = _losses(stage, traffic, before)
    metric = stage.spec.headline_loss
    stage.step(f"the next {len(flights):,} flights: {metric} {now:.2f} by the new version, {then:.2f} by the old one")


def _by_day(spec: ModelSpec, rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    days = rows[spec.event_time].dt.tz_convert(spec.monitoring.timezone).dt.normalize()
    return (part.reset_index(drop=True) for _, part in rows.groupby(days, sort=True))


def _losses(stage: Stage, traffic: Traffic, former: int) -> tuple[float, float]:
    """Mean loss of what was answered, and of what a former version answers to the same rows."""
    spec = stage.spec
    known = traffic.rows[spec.label.column].notna().to_numpy()
    truth = encode_label(spec, traffic.rows[spec.label.column][known], spec.label.classes or ())
    old = predict(stage.stores.registry.load(spec.name, former), traffic.rows[list(spec.feature_names)])
    metric = METRICS[spec.headline_loss]
    threshold = spec.evaluation.decision_threshold
    return metric.score(truth, traffic.outputs[known], threshold), metric.score(truth, old[known], threshold)


def dead_feed(stage: Stage, traffic: Traffic, flights: pd.DataFrame) -> None:
    """Act two: the weather came no more; answers went on, imputed and flagged, and nobody trains on that.

    Parameters
    ----------
    traffic
        What was sent, its last days without weather.
    flights
        The days after, with the weather back.
    """
    last = str(Windows.of(stage.spec).key(traffic.rows[stage.spec.event_time].max()))

    def found() -> Incident | None:
        one = stage.incident("feed:weather")
        return one if one is not None and last in one.windows else None

    incident = stage.wait(found, f"an incident is open for the weather feed in {last}", WAIT_S)
    owner = stage.spec.feeds["weather"].owner
    stage.step(f"found: {incident.title}; {owner} owns the feed")
    stage.wait(lambda: (one := stage.incident("feed:weather")) and one.mitigated_at, "it is imputed", WAIT_S)
    dead = traffic.rows[WEATHER[0]].isna().to_numpy() & traffic.rows[WEATHER[-1]].isna().to_numpy()
    stage.step(
        f"{int(dead.sum()):,} answers went on without weather, imputed and flagged: {np.isfinite(traffic.outputs[dead]).all()}"
    )
    later = stage.send(flights)
    stage.label(later)
    stage.wait(lambda: (one := stage.incident("feed:weather")) and one.resolved_at, "the incident is closed", WAIT_S)
    stage.step(f"the weather is back for {stage.spec.response.close_after} days: the incident is closed")
    stage.require(not stage.trainings(), "nothing was trained on what came without weather")


def bad_release(stage: Stage, bad: int, first: pd.DataFrame, then: pd.DataFrame) -> None:
    """Act three: a version trained on labels in random order is forced live, and rolled back.

    Parameters
    ----------
    bad
        The version: registered, with its bundle.
    first
        Flights that it answers.
    then
        Flights of afterwards.
    """
    spec, stores = stage.spec, stage.stores
    good = stage.champion()
    changed = force_release(
        spec, stores, bad, reason="a demonstration of what must not be", decided_by="user:demo", now=datetime.now(UTC)
    )
    forced = time.perf_counter()
    stage.step(
        f"version {bad} is live with release {changed.plan.release} on {changed.workers} worker, asked by no gate"
    )
    traffic = stage.send(first)
    stage.label(traffic)
    now, before = _losses(stage, traffic, good)
    stage.step(
        f"{len(first):,} flights answered by it: {spec.headline_loss} {now:.1f}, where version {good} has {before:.1f}"
    )
    decision = stage.wait(lambda: stage.decided("roll back"), "a rollback is decided", WAIT_S)
    stage.wait(lambda: stage.champion() == good, "the good version serves again", WAIT_S)
    stage.step(f"rolled back after {time.perf_counter() - forced:.0f} s: {decision.what.reason}")
    traffic = stage.send(then)
    stage.label(traffic)
    now, _ = _losses(stage, traffic, good)
    stage.step(f"the next {len(then):,} flights: {spec.headline_loss} {now:.2f}, by version {good} again")


def between(spec: ModelSpec, rows: pd.DataFrame, begin: datetime, days: int) -> pd.DataFrame:
    """The rows of some days from a moment on."""
    times = rows[spec.event_time]
    return rows[(times >= begin) & (times < begin + timedelta(days=days))].reset_index(drop=True)
