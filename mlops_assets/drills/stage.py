"""What a drill works with: the running system, real flights, the ledger, a clock, and waiting with a deadline.

What is broken, and what must follow, is told in the modules of the drills themselves.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pandas as pd

from mlops_assets.core.ledger import Decision, Incident, Record
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.core.schema import validate
from mlops_assets.core.spec import ModelSpec
from mlops_assets.drills.caller import HOURLY, Caller, Tally, steady_load
from mlops_assets.drills.report import Step
from mlops_assets.drills.system import System
from mlops_assets.operations.live_traffic import live_windows, stale_windows
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.traffic import Traffic, ask, labels_of, post_labels
from mlops_assets.operations.watching import read_heartbeat
from mlops_assets.sources.table import read_source

T = TypeVar("T")
LOOK_S = 300.0  # for a look of the monitor, a run, and a look of the response, on a busy machine too
EVERY_S = 0.2


class DrillFailed(RuntimeError):
    """Something that must happen has not; the message says what."""


@dataclass
class Times:
    """When it was broken, found, harmless and whole again, by the wall clock; and the windows that finding took."""

    injected: datetime | None = None
    detected: datetime | None = None
    mitigated: datetime | None = None
    resolved: datetime | None = None
    detect_windows: int | None = None

    def since_injection(self, moment: datetime | None) -> float | None:
        if self.injected is None or moment is None:
            return None
        return (moment - self.injected).total_seconds()


@dataclass
class Stage:
    """One drill underway, about one model.

    Attributes
    ----------
    bad_versions, bad_ids
        Whose answers, and which answers, are harm when they are given before mitigation.
    """

    spec: ModelSpec
    system: System
    say: Callable[[str], None]
    tally: Tally = field(default_factory=Tally)
    times: Times = field(default_factory=Times)
    steps: list[Step] = field(default_factory=list)
    bad_versions: set[int] = field(default_factory=set)
    bad_ids: set[str] = field(default_factory=set)
    _began: float = field(default_factory=time.monotonic)

    @property
    def stores(self) -> Stores:
        return self.system.stores

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    # ---- telling

    def step(self, what: str) -> None:
        """One line of what happens."""
        self.steps.append(Step(round(self.seconds, 1), what))
        self.say(f"{self.seconds:6.1f} s  {what}")

    def inject(self, what: str) -> None:
        """Now it is broken."""
        self.times.injected = datetime.now(UTC)
        self.step(f"BROKEN: {what}")

    def found(self, how: str, at: datetime | None = None) -> None:
        self.times.detected = at or datetime.now(UTC)
        self.step(f"found: {how}")

    def harmless(self, how: str, at: datetime | None = None) -> None:
        self.times.mitigated = at or datetime.now(UTC)
        self.step(f"mitigated: {how}")

    def healed(self, how: str, at: datetime | None = None) -> None:
        self.times.resolved = at or datetime.now(UTC)
        self.step(f"resolved: {how}")

    # ---- waiting

    def wait(self, what: Callable[[], T | None], told: str, timeout_s: float = LOOK_S, every_s: float = EVERY_S) -> T:
        """What `what()` gives as soon as that is anything: neither None, False nor empty.

        Raises
        ------
        DrillFailed
            When that is not in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            outcome = what()
            if outcome:
                return outcome
            if time.monotonic() >= deadline:
                raise DrillFailed(f"not within {timeout_s:.0f} s: {told}")
            time.sleep(every_s)

    def require(self, holds: bool, what: str) -> None:
        """Fail unless it holds."""
        if not holds:
            raise DrillFailed(what)
        self.step(f"holds: {what}")

    def after_a_look(self) -> None:
        """Wait until the monitor has just looked, so that what is sent next is not seen by halves."""
        began = datetime.now(UTC)

        def looked() -> bool:
            beat = read_heartbeat(self.spec, self.stores)
            return beat is not None and beat.at > began

        self.wait(looked, "the monitor looks at the log", every_s=0.2)

    def judged(self, window: str, timeout_s: float = LOOK_S) -> None:
        """Wait until everything that was sent is in tables, and the window has its verdicts."""

        def settled() -> bool:
            if window not in live_windows(self.spec, self.stores) or stale_windows(self.spec, self.stores):
                return False
            newest = Monitor(self.spec, self.stores).newest_model_health(1)
            return bool(newest) and newest[-1].window >= window

        self.wait(settled, f"{self.spec.name} is judged up to {window}", timeout_s, every_s=0.5)

    def sealed(self) -> None:
        """Wait until everything that was answered is in sealed segments."""
        log = self.stores.log
        self.wait(lambda: not any(one.records for one in log.segments() if not one.sealed), "the log is sealed", 30)

    # ---- traffic

    def days(self, first: int, count: int = 1) -> pd.DataFrame:
        """All valid flights of whole windows; the first window of live traffic is number 0."""
        calendar = Windows.of(self.spec)
        begin = calendar.bounds(calendar.shift(calendar.first, first))[0]
        end = calendar.bounds(calendar.shift(calendar.first, first + count - 1))[1]
        flights = flights_of(self.spec.name, self.spec)
        times = flights[self.spec.event_time]
        return flights[(times >= begin) & (times < end)].reset_index(drop=True)

    def window(self, number: int) -> str:
        """Key of a window of live traffic, the first of which is number 0."""
        calendar = Windows.of(self.spec)
        return calendar.shift(calendar.first, number)

    def send(self, rows: pd.DataFrame) -> Traffic:
        """Ask for all rows, hour by hour."""
        with Caller(self.system.url, self.tally) as client:
            return ask(self.spec, client, rows, HOURLY)

    def label(self, traffic: Traffic, until: datetime | None = None, late: timedelta | None = None) -> int:
        """Post the labels of what was sent that are known by then, all if left out."""
        labels = labels_of(self.spec, traffic.rows, traffic.prediction_ids, late)
        if until is not None:
            labels = labels[labels["observed_at"] <= until].reset_index(drop=True)
        return self.post(labels)

    def post(self, labels: pd.DataFrame) -> int:
        """Hand in labels, as `labels_of` gives them."""
        with Caller(self.system.url, self.tally) as client:
            return post_labels(self.spec, client, labels)

    @contextmanager
    def under_load(self, rows: pd.DataFrame | None = None, callers: int = 2) -> Iterator[None]:
        """Callers that never pause, for the length of a block."""
        flights = self.days(0) if rows is None else rows
        with steady_load(self.system.url, self.tally, self.spec, flights, callers):
            self.wait(lambda: len(self.tally.acknowledged) > 20, "callers are answered", 30)
            yield

    def goes_on(self, answers: int = 50, timeout_s: float = 60) -> None:
        """Wait until so many more answers have been given."""
        reach = len(self.tally.acknowledged) + answers
        self.wait(lambda: len(self.tally.acknowledged) >= reach, f"{answers} more answers are given", timeout_s)

    # ---- the record

    @property
    def record(self) -> Record:
        """What the ledger says of the model."""
        return self.stores.ledger.of(self.spec.name)

    def incident(self, cause: str) -> Incident | None:
        """The newest incident with a cause, open or not."""
        return next((one for one in reversed(self.record.incidents) if one.cause == cause), None)

    def mitigated(self, cause: str) -> Incident | None:
        """The newest incident with a cause, when it harms no longer."""
        incident = self.incident(cause)
        return incident if incident is not None and incident.mitigated_at is not None else None

    def closed(self, cause: str) -> Incident | None:
        """The newest incident with a cause, when it is over."""
        incident = self.incident(cause)
        return incident if incident is not None and not incident.is_open else None

    def decided(self, action: str) -> Decision | None:
        """The newest decision for an action."""
        return next((one for one in reversed(self.record.decisions) if one.what.action == action), None)

    def trainings(self) -> Sequence[Decision]:
        return [one for one in self.record.decisions if one.what.action == "retrain"]

    def plan(self) -> ReleasePlan:
        """The release plan in force."""
        plan = self.stores.releases.current(self.spec.name)
        assert plan is not None
        return plan

    def champion(self) -> int:
        return self.plan().champion.version


_FLIGHTS: dict[str, pd.DataFrame] = {}


def flights_of(model: str, spec: ModelSpec) -> pd.DataFrame:
    """The valid rows of a model's live traffic, read once a process."""
    if model not in _FLIGHTS:
        frame = read_source(spec.source)
        _FLIGHTS[model] = validate(spec, frame[frame[spec.event_time] >= spec.live_from]).valid
    return _FLIGHTS[model]
