"""Five weeks of a small model, a window a day: all goes well until its data change, and then its answers get worse."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from mlops_assets.core.evaluation import Interval, PairedComparison
from mlops_assets.core.monitoring.drift import DriftDetector
from mlops_assets.core.monitoring.estimation import estimate_performance
from mlops_assets.core.monitoring.health import (
    Cohort,
    DataHealth,
    Evidence,
    Former,
    ModelHealth,
    ScoreShift,
    ServiceRecord,
    has_decayed,
    judge_data,
    judge_model,
)
from mlops_assets.core.monitoring.performance import PerformanceReference, assess_performance, sums_of
from mlops_assets.core.monitoring.profile import Kind, WindowProfile, profile_frame
from mlops_assets.core.monitoring.reference import ReferenceProfile
from mlops_assets.core.spec import ModelSpec
from mlops_assets_tests.core.examples import make_spec

FIRST = datetime(2024, 3, 1, tzinfo=UTC)
KINDS: dict[str, Kind] = {
    "temp": "number",
    "wind_speed": "number",
    "pressure": "number",
    "night": "number",
    "origin": "category",
    "dest": "category",
}
_IMPORTANCE = {"temp": 0.32, "dest": 0.25, "pressure": 0.2, "wind_speed": 0.13, "origin": 0.06, "night": 0.04}
_DESTINATIONS = np.array([f"{a}{b}X" for a in "ABCDEF" for b in "KLMNO"], dtype=object)


def health_spec(name: str = "delay") -> ModelSpec:
    features = [{"name": one, "type": "category" if kind == "category" else "number"} for one, kind in KINDS.items()]
    return make_spec(name=name, features=features)


def health_rows(rows: int, seed: int, *, broken: bool = False) -> pd.DataFrame:
    """Rows of all features; in the broken ones pressure is missing, it is colder, and two destinations are new."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "temp": random.normal(50 - 9 * broken, 15, rows).round(1),
            "wind_speed": random.gamma(2, 5, rows).round(1),
            "pressure": random.normal(1013, 8, rows).round(1),
            "night": random.integers(0, 2, rows).astype(float),
            "origin": random.choice(np.array(["EWR", "JFK", "LGA"], dtype=object), rows),
            "dest": random.choice(_DESTINATIONS, rows, p=np.arange(30, 0, -1) / 465),
        }
    )
    frame.loc[random.random(rows) < (0.95 if broken else 0.08), "pressure"] = None
    frame.loc[random.random(rows) < 0.03, "wind_speed"] = None
    if broken:
        frame.loc[random.random(rows) < 0.06, "dest"] = "ZZ1"
        frame.loc[random.random(rows) < 0.02, "dest"] = "ZZ2"
    return frame


def health_reference() -> ReferenceProfile:
    frame = health_rows(12_000, 7)
    return ReferenceProfile.of(frame, KINDS, None, 300, _IMPORTANCE)


def window_key(number: int) -> str:
    return (FIRST + timedelta(days=number)).strftime("%Y-%m-%d")


def health_windows(
    reference: ReferenceProfile, windows: int = 35, broken_from: int = 31
) -> tuple[list[WindowProfile], list[DataHealth]]:
    """The profile of each day and what the detector makes of it; a day before the faults has too few rows."""
    spec, detector = health_spec(), DriftDetector(reference, min_rows=50)
    profiles: list[WindowProfile] = []
    history: list[DataHealth] = []
    for number in range(windows):
        rows = 20 if number == broken_from - 4 else 300
        frame = health_rows(rows, 100 + number, broken=number >= broken_from)
        profiles.append(profile_frame(reference.binning, frame))
        report = detector.assess(profiles[-8:])
        judged = judge_data(spec, rows, 300.0, report)
        history.append(
            DataHealth(
                model=spec.name,
                window=window_key(number),
                begin=FIRST + timedelta(days=number),
                end=FIRST + timedelta(days=number + 1),
                version=3,
                bundle="delay-v3-0f3a",
                rows=rows,
                verdict=judged.verdict,
                reasons=judged.reasons,
                culprits=judged.culprits,
                broken=judged.broken,
                unseen={"dest": ("ZZ1", "ZZ2")} if number >= broken_from else {},
                confidence=report.confidence,
                drift=report if report.enough else None,
                drifted=judged.drifted,
            )
        )
    return profiles, history


def model_windows(windows: int = 35, broken_from: int = 31, labelled: int | None = None) -> list[ModelHealth]:
    """What is said of the answers of each day; labels are there for the first `labelled` days, for all if left out."""
    spec, random = health_spec(), np.random.default_rng(3)

    def answers(rows: int, broken: bool) -> tuple[Any, Any]:
        chance = random.beta(2, 6, rows)
        flipped = 1 - chance if broken else chance
        return (random.random(rows) < flipped).astype(float), np.column_stack([1 - chance, chance])

    truth, output = answers(12_000, False)
    reference = PerformanceReference.of("binary", truth, output, np.arange(12_000) // 300)
    known = {name: one.value for name, one in estimate_performance(output, output).items()}
    history: list[ModelHealth] = []
    for number in range(windows):
        truth, output = answers(300, number >= broken_from and number % 2 == 1)
        has_labels = labelled is None or number < labelled
        sums = sums_of("binary", truth, output) if has_labels else None
        earlier = [one.sums for one in history if one.sums is not None]
        report = assess_performance(reference, [*earlier, sums]) if sums is not None else None
        realised = {"brier": sums.mean("brier"), "log_loss": sums.mean("log_loss")} if sums is not None else {}
        cohort = Cohort(300, 300 if has_labels else 0, 290 if has_labels else 0)
        service = ServiceRecord(312, 3, 7, 5, 0.42, 3.1)
        comparison = PairedComparison("brier", 300, 0.21, 0.19, Interval(-0.02, -0.03, -0.01))
        evidence = Evidence(cohort, service, report, 0, is_estimated=True, estimate_alarm=None, former=None)
        verdict, reasons = judge_model(spec, evidence)
        history.append(
            ModelHealth(
                model=spec.name,
                window=window_key(number),
                begin=FIRST + timedelta(days=number),
                end=FIRST + timedelta(days=number + 1),
                version=3,
                bundle="delay-v3-0f3a",
                verdict=verdict,
                reasons=reasons,
                cohort=cohort,
                service=service,
                realised=realised,
                estimated=dict(estimate_performance(output, output)),
                estimated_by="calibrated probabilities",
                reference=known,
                performance=report,
                decayed=has_decayed(spec, report),
                scores=ScoreShift(0.25, 0.26, 0.004, False, "the answers are spread as on the held-out rows"),
                former=Former(2, comparison, False),
                sums=sums,
            )
        )
    return history


def renamed(history: Sequence[DataHealth], old: str, new: str) -> list[DataHealth]:
    """The same history of a feature with another name."""

    def swap(one: DataHealth) -> DataHealth:
        text = msgspec.json.encode(one).decode()
        return msgspec.json.decode(text.replace(f'"{old}"', msgspec.json.encode(new).decode()), type=DataHealth)

    return [swap(one) for one in history]
