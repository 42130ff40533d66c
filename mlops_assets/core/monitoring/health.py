"""The verdict on one window: what its data and its answers say, in words a person can act on.

Decides from finished reports; how drift and performance are tested is told in `drift.py` and `performance.py`, and what is done
about a verdict is not decided here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Literal

import msgspec

from mlops_assets.core.evaluation import PairedComparison
from mlops_assets.core.monitoring.drift import DriftReport, FeatureDrift
from mlops_assets.core.monitoring.estimation import Estimate
from mlops_assets.core.monitoring.performance import PerformanceReport, PerformanceSums
from mlops_assets.core.spec import ModelSpec

Verdict = Literal["healthy", "degrading", "unhealthy", "failed", "insufficient data"]
_BAD: tuple[Verdict, ...] = ("healthy", "degrading", "unhealthy", "failed")

SOME_REQUESTS, MOST_REQUESTS = 0.05, 0.5
SEVERE = 5  # floors above the expected loss at which one window is enough
FEED_DEAD = 0.5  # share of model importance in broken features at which nothing can be said of the model
USUAL = 0.05  # by which a missing rate must be above the reference's, besides the declared limit
OUTSIDE = 0.2  # share of impossible or unseen values that speaks of another unit or a broken join rather than of a wider world


class DataHealth(msgspec.Struct, frozen=True):
    """What the data of one window look like beside those the model was trained on.

    `culprits` are the features behind the verdict, the most important first, `broken` those whose feed is to be suspected.
    `unseen` names the categories that no reference row has, by feature, the most frequent first. `drift` is None where there
    are too few rows. `drifted` are the culprits whose drift is grave and on which the model leans.
    """

    model: str
    window: str
    begin: datetime
    end: datetime
    version: int | None
    bundle: str | None
    rows: int
    verdict: Verdict
    reasons: tuple[str, ...]
    culprits: tuple[str, ...]
    broken: tuple[str, ...]
    unseen: dict[str, tuple[str, ...]]
    confidence: str
    drift: DriftReport | None
    drifted: tuple[str, ...] = ()


class Cohort(msgspec.Struct, frozen=True):
    """How much of a window's truth is known.

    `matured` are the answers whose label delay has passed at the newest event time, `labelled` those that have a label.
    """

    answered: int
    matured: int
    labelled: int

    @property
    def is_matured(self) -> bool:
        """Has the delay passed for all of them?"""
        return self.answered > 0 and self.matured == self.answered

    def is_covered(self, spec: ModelSpec) -> bool:
        """May the labels decide? All are due, and enough of them have come: early labels are selected labels."""
        rules = spec.monitoring
        return self.is_matured and self.labelled >= rules.min_rows and self.coverage >= rules.min_coverage

    @property
    def coverage(self) -> float:
        """Share of the answers that have a label; late labels are selected labels."""
        return self.labelled / self.answered if self.answered else 0.0


class ServiceRecord(msgspec.Struct, frozen=True):
    """What the log says of the service itself; latencies in milliseconds inside the service, NaN where nothing was answered.

    An answered row is one request here, and so is a request that was not answered, whatever number of rows it had. `refused` ones
    were not valid (4xx), `shed` ones were turned away, `failed` ones met an error.
    """

    requests: int
    refused: int
    failed: int
    shed: int
    latency_p50_ms: float
    latency_p99_ms: float


class ScoreShift(msgspec.Struct, frozen=True):
    """The distribution of the answers beside that on the held-out rows."""

    mean: float
    reference_mean: float
    psi: float
    alarm: bool
    reason: str


class Former(msgspec.Struct, frozen=True):
    """The champion before this one, asked again on the same logged rows."""

    version: int
    comparison: PairedComparison
    is_better: bool


class ModelHealth(msgspec.Struct, frozen=True):
    """How good the answers of one window were, or are thought to be.

    `realised` holds every metric of the task on the labelled answers, `estimated` what can be said without labels, by the way named
    in `estimated_by`. `sums` are the merged losses that later windows are tested together with.
    """

    model: str
    window: str
    begin: datetime
    end: datetime
    version: int | None
    bundle: str | None
    verdict: Verdict
    reasons: tuple[str, ...]
    cohort: Cohort
    service: ServiceRecord
    realised: dict[str, float]
    estimated: dict[str, Estimate]
    estimated_by: str
    reference: dict[str, float]
    performance: PerformanceReport | None
    decayed: bool
    scores: ScoreShift | None
    former: Former | None
    sums: PerformanceSums | None


class DataVerdict(msgspec.Struct, frozen=True):
    """The verdict on a window's data with its reasons and the features behind it.

    Of the `culprits`, `broken` are those whose feed is to be suspected, `drifted` those whose drift is grave and weighs.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    culprits: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    drifted: tuple[str, ...] = ()


def judge_data(
    spec: ModelSpec,
    rows: int,
    expected: float | None,
    report: DriftReport | None,
    *,
    requests: int = 0,
    impossible: Mapping[str, float] = MappingProxyType({}),
    is_over: bool = True,
) -> DataVerdict:
    """Data quality condemns at once; drift is graded by its severity and by how much the model leans on the feature.

    Parameters
    ----------
    rows
        Answers in the window.
    expected
        Rows that the reference has in such a window, 0 where it is usually quiet then; None where there is no reference.
    report
        None where the window has too few rows to be tested, or nothing to be tested against.
    requests
        Requests in the window, answered or not.
    impossible
        Share of each number's values outside its *declared* minimum and maximum, by feature. A value that only the reference has
        not seen is a wider world, such as the first summer of a model trained in winter.
    is_over
        Whether the window's time has passed: half a day is not like a day.
    """
    if not is_over:
        return DataVerdict("insufficient data", ("the window is not over yet",))
    if rows == 0:
        return _without_rows(requests, expected)
    if report is None or not report.enough:
        fewest = spec.monitoring.min_rows
        why = (
            f"{rows} rows, fewer than the {fewest} that a verdict needs" if rows < fewest else "nothing to compare with"
        )
        return DataVerdict("insufficient data", (why,))
    broken = tuple(one for one in report.features if _is_broken(spec, one, impossible.get(one.feature, 0.0)))
    names = {one.feature for one in broken}
    worth = 1 / (2 * max(len(report.features), 1))
    weighty = tuple(
        one
        for one in report.features
        if one.alarm
        and one.feature not in names
        and one.severity in ("warning", "critical")
        and one.importance >= worth
    )
    reasons = [_why_broken(spec, one, impossible.get(one.feature, 0.0)) for one in broken] + [
        one.reason for one in weighty
    ]
    if report.volume.alarm:
        reasons.append(report.volume.reason)
    minor = tuple(one for one in report.features if one.alarm and one not in broken and one not in weighty)
    culprits = tuple(one.feature for one in (*broken, *weighty, *minor))
    verdict: Verdict = "healthy"
    if weighty or report.volume.alarm:
        verdict = "degrading"
    if broken:
        verdict = "failed" if sum(one.importance for one in broken) >= FEED_DEAD else "unhealthy"
    if verdict == "healthy":
        reasons.append("the data are those of the reference" if not minor else _of_little_weight(minor))
    elif minor:
        reasons.append(_of_little_weight(minor))
    return DataVerdict(
        verdict,
        tuple(reasons),
        culprits,
        broken=tuple(one.feature for one in broken),
        drifted=tuple(one.feature for one in weighty),
    )


def _without_rows(requests: int, expected: float | None) -> DataVerdict:
    if requests:
        return DataVerdict("failed", (f"{requests} requests came and none was answered",))
    if expected == 0:
        return DataVerdict("insufficient data", ("no traffic came, as is usual then",))
    there = "" if expected is None else f", where about {expected:,.0f} rows are usual"
    return DataVerdict("failed", (f"no traffic came{there}",))


def _of_little_weight(features: Sequence[FeatureDrift]) -> str:
    shown = ", ".join(one.feature for one in features[:4]) + (" and more" if len(features) > 4 else "")
    return f"differences that are small, or in features of little weight: {shown}"


def _is_broken(spec: ModelSpec, one: FeatureDrift, impossible: float) -> bool:
    """Is the feed to be suspected, rather than the world?"""
    return _is_missing(spec, one) or one.stuck or (one.alarm and one.unseen_share > OUTSIDE) or impossible > OUTSIDE


def _is_missing(spec: ModelSpec, one: FeatureDrift) -> bool:
    """Above the declared limit, and above what is usual; whether such days have been before is no excuse."""
    return one.missing_rate > spec.imputation.alarm_above and one.missing_rate > one.reference_missing_rate + USUAL


def _why_broken(spec: ModelSpec, one: FeatureDrift, impossible: float) -> str:
    if impossible > OUTSIDE:
        return f"{one.feature} has {impossible:.0%} of its values outside its declared range: is it another unit?"
    if _is_missing(spec, one) and not (one.alarm and one.test == "missing"):
        return (
            f"{one.feature} is missing in {one.missing_rate:.0%} of the rows, above the limit of {spec.imputation.alarm_above:.0%} "
            f"({one.reference_missing_rate:.0%} in the reference)"
        )
    return one.reason


class Evidence(msgspec.Struct, frozen=True):
    """All that the verdict on a model's answers in one window may look at.

    `performance` is None where the labels may not decide. `decayed_before` counts the decayed windows among the
    `monitoring.confirm.of - 1` before this one. `is_estimated` tells whether what is estimated without labels can be held against
    the reference, and `estimate_alarm` why it is worse, if it is.
    """

    cohort: Cohort
    service: ServiceRecord
    performance: PerformanceReport | None
    decayed_before: int
    is_estimated: bool
    estimate_alarm: str | None
    former: Former | None
    has_reference: bool = True
    is_over: bool = True


def judge_model(spec: ModelSpec, evidence: Evidence) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and its reasons, the worst first.

    Labels decide where there are enough of them, the estimate where they are not due. Decay needs significance, the declared floor
    and the declared number of windows; where the loss has risen by five floors one window is enough.
    """
    found = judge_service(evidence.service)
    if evidence.is_over:
        found += _of_performance(spec, evidence)
    elif evidence.cohort.answered:
        found.append(("insufficient data", "the window is not over yet"))
    found.sort(key=lambda one: -_rank(one[0]))
    if not found:
        return "insufficient data", ("no request came",)
    return found[0][0], tuple(reason for _, reason in found)


def judge_service(service: ServiceRecord) -> list[tuple[Verdict, str]]:
    """What is wrong with the service, each with its reason: too many requests were not answered, or were not valid."""
    if not service.requests:
        return []
    found: list[tuple[Verdict, str]] = []
    share = (service.failed + service.shed) / service.requests
    what = f"{service.failed} of {service.requests} requests failed and {service.shed} were turned away ({share:.1%})"
    if share > SOME_REQUESTS:
        found.append(("failed" if share >= MOST_REQUESTS else "unhealthy", what))
    share = service.refused / service.requests
    if share > SOME_REQUESTS:
        what = f"{service.refused} of {service.requests} requests were not valid ({share:.1%}): has a caller changed what it sends?"
        found.append(("unhealthy" if share >= MOST_REQUESTS else "degrading", what))
    return found


def _rank(verdict: Verdict) -> float:
    # too little to say weighs more than good news and less than any bad
    return 0.5 if verdict == "insufficient data" else float(_BAD.index(verdict))


def _of_performance(spec: ModelSpec, evidence: Evidence) -> list[tuple[Verdict, str]]:
    cohort, fewest = evidence.cohort, spec.monitoring.min_rows
    if not cohort.answered:
        return []
    if cohort.answered < fewest:
        return [("insufficient data", f"{cohort.answered} answers, fewer than the {fewest} that a verdict needs")]
    if not evidence.has_reference:
        return [("insufficient data", "nothing to compare with: the bundle that answered has no reference")]
    if evidence.performance is not None:
        found = [_of_labels(spec, evidence.performance, evidence.decayed_before)]
    else:
        found = [_without_labels(spec, evidence)]
        if evidence.estimate_alarm is not None and cohort.is_matured:
            found.append(("degrading", evidence.estimate_alarm))
    if evidence.former is not None and evidence.former.is_better:
        found.append(("degrading", _better_before(evidence.former)))
    return found


def _of_labels(spec: ModelSpec, report: PerformanceReport, before: int) -> tuple[Verdict, str]:
    over = report.decayed and not has_decayed(spec, report)
    why = f"{report.reason}; the newest window is back below the floor" if over else report.reason
    return _decay(spec, report, before), why


def _without_labels(spec: ModelSpec, evidence: Evidence) -> tuple[Verdict, str]:
    cohort, rules = evidence.cohort, spec.monitoring
    if cohort.is_matured and cohort.coverage < rules.min_coverage:
        return "insufficient data", (
            f"the label feed has dried up: {cohort.labelled} of {cohort.answered} answers have a label ({cohort.coverage:.0%}) "
            "though all are due; look at what posts to /feedback"
        )
    if cohort.is_matured:
        return "insufficient data", f"{cohort.labelled} labels, fewer than the {rules.min_rows} that a verdict needs"
    here = f"labels are not due yet ({cohort.labelled} of {cohort.answered} are here)"
    if not evidence.is_estimated:
        return "insufficient data", f"nothing can be estimated without labels; {here}"
    if evidence.estimate_alarm is not None:
        return "degrading", f"{evidence.estimate_alarm}; {here}"
    return "healthy", f"the estimate without labels is as good as the reference; {here}"


def _better_before(former: Former) -> str:
    one = former.comparison
    return (
        f"version {former.version} would have been better on the same {one.rows} rows: {one.metric} {one.champion:.4g} against "
        f"{one.candidate:.4g}"
    )


def has_decayed(spec: ModelSpec, report: PerformanceReport | None) -> bool:
    """Is decay shown, and not only by earlier windows that the newest was tested together with?

    A single bad day stays in the tests over several windows; it is over when the newest window is back below the floor.
    """
    return report is not None and report.decayed and report.relative >= spec.monitoring.floor


def _decay(spec: ModelSpec, report: PerformanceReport, before: int) -> Verdict:
    if not has_decayed(spec, report):
        return "healthy"
    if report.relative >= SEVERE * spec.monitoring.floor:
        return "unhealthy"
    return "unhealthy" if before + 1 >= spec.monitoring.confirm.alarms else "degrading"
