"""Verdicts by example: what is a broken feed, what is drift, what is decay, and when nothing may be said."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from mlops_assets.core.monitoring.drift import DriftReport, FeatureDrift
from mlops_assets.core.monitoring.health import (
    Cohort,
    Evidence,
    ServiceRecord,
    has_decayed,
    judge_data,
    judge_model,
)
from mlops_assets.core.monitoring.performance import PerformanceReport
from mlops_assets.core.monitoring.volume import VolumeReport
from mlops_assets_tests.core.examples import make_spec

SPEC = make_spec(monitoring={"min_rows": 50})
SOUND = FeatureDrift(
    feature="temp",
    severity="none",
    alarm=False,
    p_value=0.4,
    test="location",
    scale=1,
    psi=0.01,
    effect=0.1,
    missing_rate=0.02,
    reference_missing_rate=0.02,
    unseen_share=0.0,
    out_of_range_share=0.0,
    stuck=False,
    importance=0.5,
    reason="temp is as in the reference",
)
LIGHT = msgspec.structs.replace(SOUND, feature="seats", importance=0.01)
USUAL = VolumeReport(900, 900.0, 1.0, False, "as many rows as usual")


def report(*features: FeatureDrift, volume: VolumeReport = USUAL, enough: bool = True) -> DriftReport:
    return DriftReport(900, features, volume, enough, 59, "59 reference blocks")


def changed(one: FeatureDrift, **changes: Any) -> FeatureDrift:
    return msgspec.structs.replace(one, alarm=True, **changes)


def test_data_like_the_reference_are_healthy():
    verdict = judge_data(SPEC, 900, 900.0, report(SOUND, LIGHT))
    assert (verdict.verdict, verdict.culprits, verdict.drifted) == ("healthy", (), ())


@pytest.mark.parametrize(
    "fault",
    [
        {"missing_rate": 0.45, "test": "missing", "reason": "temp is missing"},
        {"unseen_share": 0.5, "test": "unseen", "reason": "temp is unseen"},
        {"stuck": True, "reason": "temp is stuck"},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_a_broken_feed_is_unhealthy_at_once_however_little_the_model_leans_on_it(fault: dict[str, Any]):
    verdict = judge_data(SPEC, 900, 900.0, report(SOUND, changed(LIGHT, **fault)))
    assert verdict.verdict == "unhealthy"
    assert verdict.broken == verdict.culprits == ("seats",)
    assert verdict.reasons[0] == fault["reason"]


def test_values_that_cannot_be_are_a_broken_feed_and_values_that_are_new_are_drift():
    """A model trained in winter once called the thermometer broken all summer long."""
    summer = changed(SOUND, out_of_range_share=0.9, severity="critical", reason="temp is higher")
    assert judge_data(SPEC, 900, 900.0, report(summer), impossible={"temp": 0.0}).verdict == "degrading"
    celsius = judge_data(SPEC, 900, 900.0, report(summer, LIGHT), impossible={"temp": 0.9})
    assert (celsius.verdict, celsius.broken) == ("failed", ("temp",))


def test_feeds_that_carry_most_of_the_model_fail_the_window():
    dead = changed(SOUND, missing_rate=1.0, importance=0.6, reason="temp is missing in all rows")
    assert judge_data(SPEC, 900, 900.0, report(dead, LIGHT)).verdict == "failed"


def test_missing_values_that_were_always_there_are_nobodys_fault():
    usual = msgspec.structs.replace(SOUND, missing_rate=0.4, reference_missing_rate=0.4)
    assert judge_data(SPEC, 900, 900.0, report(usual)).verdict == "healthy"


def test_missing_above_the_limit_is_a_broken_feed_even_where_it_has_been_so_before():
    """A feed that had failed in two winter storms once was allowed to be missing altogether: that was within its scatter."""
    storm = msgspec.structs.replace(SOUND, missing_rate=1.0, reference_missing_rate=0.11)
    verdict = judge_data(SPEC, 900, 900.0, report(storm, msgspec.structs.replace(LIGHT, importance=0.6)))
    assert verdict.broken == ("temp",)
    assert verdict.reasons[0] == "temp is missing in 100% of the rows, above the limit of 30% (11% in the reference)"


def test_drift_is_graded_by_what_the_model_leans_on():
    heavy = changed(SOUND, severity="critical", reason="temp is higher")
    assert judge_data(SPEC, 900, 900.0, report(heavy)).verdict == "degrading"
    light = judge_data(SPEC, 900, 900.0, report(SOUND, changed(LIGHT, severity="critical")))
    assert (light.verdict, light.culprits) == ("healthy", ("seats",))
    assert "little weight: seats" in light.reasons[0]
    assert judge_data(SPEC, 900, 900.0, report(changed(SOUND, severity="notice"))).verdict == "healthy"


def test_what_has_drifted_is_told_apart_from_what_is_broken_and_what_weighs_little():
    heavy = changed(SOUND, severity="critical", reason="temp is higher")
    dead = changed(LIGHT, feature="wind", missing_rate=1.0, severity="critical", reason="wind is missing")
    small = changed(LIGHT, severity="critical", reason="seats are more")
    verdict = judge_data(SPEC, 900, 900.0, report(heavy, dead, small))
    assert (verdict.verdict, verdict.broken, verdict.drifted) == ("unhealthy", ("wind",), ("temp",))
    assert verdict.culprits == ("wind", "temp", "seats")
    few = judge_data(SPEC, 450, 900.0, report(SOUND, small, volume=VolumeReport(450, 900.0, 0.5, True, "450 rows")))
    assert (few.verdict, few.drifted) == ("degrading", ())


def test_half_the_rows_are_too_few_once_the_window_is_over():
    few = report(SOUND, volume=VolumeReport(450, 900.0, 0.5, True, "450 rows where 900 are usual"))
    assert judge_data(SPEC, 450, 900.0, few).verdict == "degrading"
    assert judge_data(SPEC, 450, 900.0, few, is_over=False).verdict == "insufficient data"


def test_a_window_that_is_not_over_is_not_judged():
    """Each morning a mean that is known from noon on was once called a broken feed."""
    dead = changed(SOUND, missing_rate=1.0, reason="temp is missing")
    verdict = judge_data(SPEC, 300, 900.0, report(dead), is_over=False)
    assert (verdict.verdict, verdict.reasons) == ("insufficient data", ("the window is not over yet",))


def test_no_traffic_fails_a_window_that_is_over_and_few_rows_say_nothing():
    assert judge_data(SPEC, 0, 900.0, None).reasons == ("no traffic came, where about 900 rows are usual",)
    assert judge_data(SPEC, 0, None, None).verdict == "failed"
    assert judge_data(SPEC, 0, 900.0, None, is_over=False).verdict == "insufficient data"
    assert judge_data(SPEC, 0, 0.0, None).reasons == ("no traffic came, as is usual then",)
    assert judge_data(SPEC, 0, 900.0, None, requests=7).reasons == ("7 requests came and none was answered",)
    verdict = judge_data(SPEC, 20, 900.0, report(SOUND, enough=False))
    assert (verdict.verdict, verdict.reasons) == (
        "insufficient data",
        ("20 rows, fewer than the 50 that a verdict needs",),
    )
    assert judge_data(SPEC, 500, None, None).reasons == ("nothing to compare with",)


@dataclass(frozen=True)
class Case:
    """One window's evidence, healthy unless changed."""

    answered: int = 900
    matured: int = 900
    labelled: int = 880
    requests: int = 900
    refused: int = 0
    failed: int = 0
    shed: int = 0
    relative: float | None = 0.01
    alarm: bool = False
    before: int = 0
    is_estimated: bool = True
    estimate_alarm: str | None = None

    def judged(self) -> tuple[str, tuple[str, ...]]:
        service = ServiceRecord(self.requests, self.refused, self.failed, self.shed, 1.0, 2.0)
        performance = None if self.relative is None else performed(self.relative, alarm=self.alarm)
        cohort = Cohort(self.answered, self.matured, self.labelled)
        return judge_model(
            SPEC, Evidence(cohort, service, performance, self.before, self.is_estimated, self.estimate_alarm, None)
        )


def performed(relative: float, *, alarm: bool) -> PerformanceReport:
    decayed = alarm and relative >= SPEC.monitoring.floor
    return PerformanceReport(
        loss="brier",
        rows=880,
        value=0.15 * (1 + relative),
        reference=0.15,
        expected=0.15,
        relative=relative,
        standard_error=0.005,
        low=0.14,
        high=0.16,
        tests=(),
        alarm=alarm,
        above_floor=relative >= SPEC.monitoring.floor,
        decayed=decayed,
        blocks=14,
        confidence="14 blocks",
        reason="decayed" if decayed else "no significant change",
    )


@pytest.mark.parametrize(
    ("case", "verdict", "word"),
    [
        (Case(), "healthy", "no significant change"),
        (Case(relative=0.2, alarm=True), "degrading", "decayed"),
        (Case(relative=0.2, alarm=True, before=1), "unhealthy", "decayed"),
        (Case(relative=0.6, alarm=True), "unhealthy", "decayed"),
        (Case(relative=0.2, alarm=False, before=3), "healthy", "no significant change"),
        (Case(labelled=10, relative=None), "insufficient data", "label feed has dried up"),
        (
            Case(answered=60, matured=60, labelled=42, relative=None),
            "insufficient data",
            "42 labels, fewer than the 50",
        ),
        (Case(labelled=10, matured=300, relative=None), "healthy", "labels are not due yet"),
        (Case(labelled=0, matured=0, relative=None, is_estimated=False), "insufficient data", "nothing can be"),
        (Case(labelled=0, matured=0, relative=None, estimate_alarm="estimated worse"), "degrading", "estimated worse"),
        (Case(answered=30, matured=30, labelled=30, requests=30), "insufficient data", "fewer than the 50"),
        (Case(requests=1000, failed=80, shed=20), "unhealthy", "80 of 1000 requests failed"),
        (Case(requests=1000, refused=100), "degrading", "100 of 1000 requests were not valid"),
        (Case(answered=0, matured=0, labelled=0, requests=40, refused=40, relative=None), "unhealthy", "not valid"),
        (Case(answered=0, matured=0, labelled=0, requests=40, failed=40, relative=None), "failed", "40 of 40"),
        (Case(answered=0, matured=0, labelled=0, requests=0, relative=None), "insufficient data", "no request came"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_verdict_on_the_answers(case: Case, verdict: str, word: str):
    given, reasons = case.judged()
    assert given == verdict
    assert word in reasons[0]


def test_decay_that_only_earlier_windows_show_is_over():
    """One bad day stays in the tests over several windows, and once kept a sound window unhealthy for a week."""
    pooled = msgspec.structs.replace(
        performed(0.02, alarm=True), decayed=True, reason="decayed over the last 4 windows"
    )
    assert not has_decayed(SPEC, pooled)
    evidence = Evidence(
        Cohort(900, 900, 880),
        ServiceRecord(900, 0, 0, 0, 1.0, 2.0),
        pooled,
        2,
        is_estimated=True,
        estimate_alarm=None,
        former=None,
    )
    verdict, reasons = judge_model(SPEC, evidence)
    assert verdict == "healthy"
    assert reasons[0].endswith("the newest window is back below the floor")
