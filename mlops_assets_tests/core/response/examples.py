"""Days of a small model as the monitors would have judged them, and the record of what was done about it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from mlops_assets.core.evaluation import Interval, PairedComparison
from mlops_assets.core.ledger import Ended, Entry, Fact, Frozen, Opened, Record, Released, Retired, Started, Thawed
from mlops_assets.core.ledger_fold import with_entry
from mlops_assets.core.monitoring.drift import DriftReport, FeatureDrift
from mlops_assets.core.monitoring.health import Cohort, DataHealth, Former, ModelHealth, ServiceRecord, Verdict
from mlops_assets.core.monitoring.performance import PerformanceReport
from mlops_assets.core.monitoring.volume import VolumeReport
from mlops_assets.core.response import Champion, Response, Signal, Situation, respond
from mlops_assets.core.response.situation import Severity
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.trials.facts import TrialBegan, TrialStepped
from mlops_assets.core.trials.judging import protocol_of
from mlops_assets_tests.core.examples import make_spec

DAY = timedelta(days=1)
FIRST = datetime(2024, 3, 1, tzinfo=UTC)
SERVED = ServiceRecord(100, 0, 0, 0, 1.0, 2.0)


def key(day: int) -> str:
    return (FIRST + day * DAY).strftime("%Y-%m-%d")


def policy(**changes: Any) -> ModelSpec:
    """A declaration whose temp comes from a declared feed and whose seats do not; `changes` are those of the response."""
    base = make_spec(response=changes, feeds={"weather": {"owner": "team:weather"}}, live_from="2024-03-01T00:00:00Z")
    features = tuple(one.model_copy(update={"feed": "weather"}) if one.name == "temp" else one for one in base.features)
    return base.model_copy(update={"features": features})


def drift_of(name: str, **changes: Any) -> FeatureDrift:
    usual = FeatureDrift(
        name, "none", False, 1.0, "", 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False, 0.5, f"{name} is as usual"
    )
    return msgspec.structs.replace(usual, **changes)


def data_of(
    day: int, verdict: Verdict = "healthy", version: int = 1, *features: FeatureDrift, **changes: Any
) -> DataHealth:
    """A day's data; `broken` and `drifted` are given by name."""
    report = DriftReport(100, features, VolumeReport(100, 100.0, 1.0, False, ""), True, 30, "")
    health = DataHealth(
        model="delay",
        window=key(day),
        begin=FIRST + day * DAY,
        end=FIRST + (day + 1) * DAY,
        version=version,
        bundle="sha256:1",
        rows=100,
        verdict=verdict,
        reasons=tuple(one.reason for one in features) or ("the data are those of the reference",),
        culprits=(),
        broken=(),
        unseen={},
        confidence="",
        drift=report,
    )
    return msgspec.structs.replace(health, **changes)


def model_of(
    day: int,
    version: int = 1,
    *,
    decayed: bool = False,
    labelled: bool = True,
    former: Former | None = None,
    **changes: Any,
) -> ModelHealth:
    """A day's answers, confirmed to be worse where they have decayed."""
    why = "decayed: brier is 40% above expectation" if decayed else "as good as expected"
    report = PerformanceReport(
        "brier",
        100,
        0.21 if decayed else 0.15,
        0.15,
        0.15,
        0.4 if decayed else 0.0,
        0.01,
        0.0,
        0.0,
        (),
        decayed,
        decayed,
        decayed,
        30,
        "",
        why,
    )
    health = ModelHealth(
        model="delay",
        window=key(day),
        begin=FIRST + day * DAY,
        end=FIRST + (day + 1) * DAY,
        version=version,
        bundle="sha256:1",
        verdict="unhealthy" if decayed else "healthy",
        reasons=(why,),
        cohort=Cohort(100, 100, 100 if labelled else 0),
        service=SERVED,
        realised={},
        estimated={},
        estimated_by="",
        reference={},
        performance=report if labelled else None,
        decayed=decayed,
        scores=None,
        former=former,
        sums=None,
    )
    return msgspec.structs.replace(health, **changes)


def former_of(version: int, *, is_better: bool) -> Former:
    return Former(version, PairedComparison("brier", 100, 0.12, 0.2, Interval(0.08, 0.05, 0.11)), is_better)


@dataclass
class Story:
    """A model day by day: what is seen of each, what the policy says to it, and the record that grows from that."""

    spec: ModelSpec = field(default_factory=policy)
    record: Record = field(default_factory=lambda: Record("delay"))
    data: list[DataHealth] = field(default_factory=list)
    model: list[ModelHealth] = field(default_factory=list)
    champion: Champion = field(default_factory=lambda: Champion(1, FIRST, 5000))
    fresh_rows: int = 5000
    rivals: tuple[Former, ...] | None = None
    signals: tuple[Signal, ...] = ()
    on_trial: int | None = None

    def day(self, data: DataHealth | None = None, model: ModelHealth | None = None) -> Response:
        """One more day, and what follows; its facts and its decision go on the record."""
        number = len(self.data)
        self.data.append(data or data_of(number, version=self.champion.version))
        self.model.append(model or model_of(number, self.champion.version))
        return self.look()

    def look(self) -> Response:
        """The newest day once more."""
        response = respond(self.spec, self.situation, self.record)
        for subject, fact in response.facts:
            self.write(subject, fact)
        if response.decision_id not in {one.id for one in self.record.decisions}:
            self.write(response.decision_id, response.decision)
        return response

    @property
    def situation(self) -> Situation:
        newest = self.data[-1]
        return Situation(
            newest.window,
            newest.end,
            self.champion,
            tuple(self.data),
            tuple(self.model),
            self.fresh_rows,
            self.rivals,
            self.signals,
            self.on_trial,
        )

    @property
    def now(self) -> datetime:
        return self.data[-1].end if self.data else FIRST

    def bad_day(self, **changes: Any) -> Response:
        """A day of which the answers are worse."""
        return self.day(model=model_of(len(self.data), self.champion.version, decayed=True, **changes))

    def end(self, response: Response, outcome: str) -> None:
        """A decision has been carried out, with this outcome."""
        self.write(response.decision_id, Ended(outcome, 1))  # type: ignore[arg-type]

    def release(self, version: int) -> None:
        former = self.champion.version
        self.champion = Champion(version, self.now, 5000)
        self.write("delay", Released(version, version, former, "immediate", True, ""))

    def try_out(self, response: Response, version: int, *, is_looked_at: bool = True) -> None:
        """A training has ended with a version on trial beside the champion; at first nobody has looked at it."""
        run = f"run-{version}"
        self.write(response.decision_id, Started(1, run))
        self.write(response.decision_id, Ended("on trial", 1, run))
        self.on_trial = version
        if is_looked_at:
            protocol = protocol_of(self.spec, None, None)
            began = TrialBegan(version, version, self.champion.version, f"run:{run}", protocol)
            self.write(f"delay/trial/{version}", began)

    def step(self, version: int, *steps: str) -> None:
        """What the trial of a version has come to."""
        for step in steps:
            self.write(f"delay/trial/{version}", TrialStepped(step, version, "a test"))  # type: ignore[arg-type]
        self.on_trial = None

    def incident(self, cause: str, severity: Severity = "critical") -> None:
        self.write(f"delay/{cause}/1", Opened(cause, cause, severity))

    def freeze(self) -> None:
        self.write("delay", Frozen("by hand"))

    def thaw(self) -> None:
        self.write("delay", Thawed("looked at"))

    def retire(self) -> None:
        self.write("delay", Retired("no longer needed"))

    def write(self, subject: str, fact: Fact) -> None:
        self.record = with_entry(self.record, Entry("delay", subject, fact, "test", self.now, self.now))
