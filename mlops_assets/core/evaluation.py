"""Is a fitted model good enough? Metrics with intervals, slices, the comparison with the champion, and the verdict of the gates.

Works on outputs that somebody else computed; which rows they belong to and where the models live is not known here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_assets.core.metrics import METRICS, Floats, Metric, metrics_of, quantile_bins
from mlops_assets.core.spec import (
    BaselineGate,
    ChampionGate,
    EvaluationSpec,
    GateSpec,
    LatencyGate,
    LimitGate,
    ModelSpec,
)


class Interval(msgspec.Struct, frozen=True):
    """A value and its confidence interval; the ends are NaN where it cannot be had."""

    value: float
    low: float
    high: float


class PairedComparison(msgspec.Struct, frozen=True):
    """Candidate against champion on the same rows, for a metric that is a mean.

    `loss` is the mean difference in the direction of worse: positive where the candidate is worse. Unit: the metric's.
    """

    metric: str
    rows: int
    champion: float
    candidate: float
    loss: Interval


class GateResult(msgspec.Struct, frozen=True):
    """One gate's verdict. `margin` is the distance to the limit in the metric's unit, positive where the gate is passed."""

    gate: str
    passed: bool
    value: float | None
    limit: float | None
    margin: float | None
    why: str


class SliceMetrics(msgspec.Struct, frozen=True):
    """The metrics of the rows in which `feature` has the value `level`, lies in that interval, or is `MISSING`."""

    feature: str
    level: str
    rows: int
    metrics: dict[str, float]


class Evaluation(msgspec.Struct, frozen=True):
    """What is known about a candidate, and the verdict on it. `version` is the registered version that was judged."""

    model: str
    version: int
    rows: int
    metrics: dict[str, Interval]
    baseline: dict[str, float]
    slices: tuple[SliceMetrics, ...]
    comparisons: tuple[PairedComparison, ...]
    compared_with: str
    latency_ms: float
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class Judged:
    """Rows with their truth, shape (n,), and a model's outputs, shape (n, K) or (n, 1).

    Raises
    ------
    ValueError
        When an output is no finite number: some metrics would not show it.
    """

    truth: Floats
    output: Floats

    def __post_init__(self) -> None:
        strange = int((~np.isfinite(self.output)).any(axis=1).sum())
        if strange:
            raise ValueError(
                f"{strange} of {len(self.output)} answers of the model are no finite numbers, so that it cannot be judged; "
                "look at the estimator and at the range of its inputs"
            )


def measure(spec: ModelSpec, judged: Judged) -> dict[str, Interval]:
    """Every metric of the task with a percentile-bootstrap interval (Efron 1979) over the rows.

    Raises
    ------
    ValueError
        When a classifier gave its choice instead of probabilities.
    """
    if spec.task != "regression" and judged.output.shape[1] < 2:
        raise ValueError(
            f"model {spec.name!r}: {spec.training.estimator} gives one value a row and no probabilities for its classes, so "
            "that it cannot be judged; declare an estimator, or parameters, with predict_proba"
        )
    random = np.random.default_rng(spec.training.seed)
    rules = spec.evaluation
    return {name: _interval(METRICS[name], judged, rules, random) for name in metrics_of(spec.task)}


def _interval(metric: Metric, judged: Judged, rules: EvaluationSpec, random: np.random.Generator) -> Interval:
    threshold = rules.decision_threshold
    value = metric.score(judged.truth, judged.output, threshold)
    if metric.rows is not None:
        values = _resampled_means(
            metric.rows(judged.truth, judged.output, threshold), rules.bootstrap_resamples, random
        )
    else:
        # what is no mean needs every resample scored in full: fewer of them, and at most 5,000 rows each, widened to the full size
        picked = min(len(judged.truth), 5_000)
        draws = random.integers(0, len(judged.truth), (min(rules.bootstrap_resamples, 200), picked))
        values = np.array([metric.score(judged.truth[draw], judged.output[draw], threshold) for draw in draws])
        values = values[np.isfinite(values)]  # a resample without one of the classes
        values = value + (values - value) * np.sqrt(picked / len(judged.truth))
    return Interval(value, *_percentiles(values, rules.confidence))


def _resampled_means(rows: Floats, resamples: int, random: np.random.Generator) -> Floats:
    n = len(rows)
    means = np.empty(resamples)
    for position in range(resamples):
        means[position] = rows[random.integers(0, n, n)].mean()
    return means


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def baseline_output(spec: ModelSpec, training_truth: Floats, classes: int, rows: int) -> Floats:
    """What the trivial model answers: the class frequencies, or the median, of the rows it was trained on."""
    if spec.task == "regression":
        return np.full((rows, 1), np.median(training_truth))
    shares = np.bincount(training_truth.astype(np.int64), minlength=classes) / len(training_truth)
    return np.tile(shares, (rows, 1))


def point_metrics(spec: ModelSpec, judged: Judged) -> dict[str, float]:
    """Every metric of the task, without interval."""
    threshold = spec.evaluation.decision_threshold
    return {name: METRICS[name].score(judged.truth, judged.output, threshold) for name in metrics_of(spec.task)}


def slice_metrics(spec: ModelSpec, frame: pd.DataFrame, judged: Judged) -> tuple[SliceMetrics, ...]:
    """The metrics by declared slice: each level of a category, each quarter of a number, and the rows where it is missing.

    In rising order of the values, `MISSING` last. Slices with too few rows are left out.
    """
    results = []
    for feature in spec.evaluation.slices:
        for level, rows in _parts(spec, frame[feature], feature):
            if rows.sum() >= spec.evaluation.min_slice_rows:
                metrics = point_metrics(spec, Judged(judged.truth[rows], judged.output[rows]))
                results.append(SliceMetrics(feature, level, int(rows.sum()), metrics))
    return tuple(results)


MISSING = "(missing)"


def _parts(spec: ModelSpec, values: "pd.Series[Any]", feature: str) -> list[tuple[str, NDArray[np.bool_]]]:
    whole = spec.feature(feature).is_category or values.nunique() <= 8
    parts = values if whole else pd.qcut(values, 4, duplicates="drop")
    present = [(str(level), (parts == level).to_numpy()) for level in sorted(parts.dropna().unique())]
    return [*present, (MISSING, values.isna().to_numpy())]


def compare(spec: ModelSpec, truth: Floats, champion: Floats, candidate: Floats) -> tuple[PairedComparison, ...]:
    """Candidate against champion in pairs: the bootstrap interval of the mean difference of each metric that is a mean."""
    random = np.random.default_rng(spec.training.seed)
    rules = spec.evaluation
    results = []
    for name in metrics_of(spec.task):
        metric = METRICS[name]
        if metric.rows is None:
            continue
        champion_rows = metric.rows(truth, champion, rules.decision_threshold)
        candidate_rows = metric.rows(truth, candidate, rules.decision_threshold)
        worse = (candidate_rows - champion_rows) * (-1.0 if metric.higher_is_better else 1.0)
        low, high = _percentiles(_resampled_means(worse, rules.bootstrap_resamples, random), rules.confidence)
        interval = Interval(float(worse.mean()), low, high)
        results.append(
            PairedComparison(name, len(truth), float(champion_rows.mean()), float(candidate_rows.mean()), interval)
        )
    return tuple(results)


@dataclass(frozen=True)
class Evidence:
    """All that a gate may look at. `incomparable` says why a champion that serves could not be compared with, if so."""

    metrics: dict[str, Interval]
    baseline: dict[str, float]
    slices: tuple[SliceMetrics, ...]
    comparisons: tuple[PairedComparison, ...]
    latency_ms: float
    incomparable: str | None = None


def judge(gates: tuple[GateSpec, ...], evidence: Evidence) -> tuple[GateResult, ...]:
    """The verdict of every declared gate. A value that is not a number passes no gate."""
    return tuple(_judge(gate, evidence) for gate in gates)


def _judge(gate: GateSpec, evidence: Evidence) -> GateResult:
    match gate:
        case LimitGate():
            return _judge_limit(gate, evidence)
        case BaselineGate():
            metric = METRICS[gate.metric]
            base = evidence.baseline[gate.metric]
            limit = base + abs(base) * gate.by * (1 if metric.higher_is_better else -1)
            return _against(
                gate.name,
                metric.higher_is_better,
                evidence.metrics[gate.metric].value,
                limit,
                f"trivial model {base:.4g}",
                strict=True,
            )
        case ChampionGate():
            return _judge_champion(gate, evidence)
        case LatencyGate():
            return _against(gate.name, False, evidence.latency_ms, gate.at_most_ms, "median of single rows, ms")


def _judge_limit(gate: LimitGate, evidence: Evidence) -> GateResult:
    higher = gate.at_least is not None
    limit = gate.at_least if gate.at_least is not None else gate.at_most
    assert limit is not None
    if not gate.per_slice:
        interval = evidence.metrics[gate.metric]
        return _against(gate.name, higher, interval.value, limit, f"interval {interval.low:.4g} to {interval.high:.4g}")
    if not evidence.slices:
        return GateResult(
            gate.name,
            False,
            None,
            limit,
            None,
            "no slice has enough rows to be judged; lower evaluation.min_slice_rows",
        )
    worst = min(evidence.slices, key=lambda part: _goodness(part.metrics[gate.metric], higher))
    return _against(
        gate.name,
        higher,
        worst.metrics[gate.metric],
        limit,
        f"worst slice {worst.feature} = {worst.level}, {worst.rows} rows",
    )


def _goodness(value: float, higher: bool) -> float:
    """Larger is better; what is not a number is worst."""
    return -np.inf if np.isnan(value) else value if higher else -value


def _judge_champion(gate: ChampionGate, evidence: Evidence) -> GateResult:
    comparison = next((one for one in evidence.comparisons if one.metric == gate.metric), None)
    if evidence.incomparable is not None:
        why = f"{evidence.incomparable}; take this gate out of the declaration to release without the comparison"
        return GateResult(gate.name, False, None, None, None, why)
    if comparison is None:
        return GateResult(gate.name, True, None, None, None, "no champion to compare with: this is the first model")
    limit = 0.0 if gate.superior else gate.margin * abs(comparison.champion)
    why = (
        f"{gate.metric}: candidate {comparison.candidate:.5g}, champion {comparison.champion:.5g} on the same {comparison.rows} "
        f"rows; worse by {comparison.loss.value:.3g} ({comparison.loss.low:.3g} to {comparison.loss.high:.3g})"
    )
    return _against(gate.name, False, comparison.loss.high, limit, why, strict=gate.superior)


def _against(name: str, higher: bool, value: float, limit: float, why: str, *, strict: bool = False) -> GateResult:
    margin = (value - limit) if higher else (limit - value)
    passed = bool(margin > 0 if strict else margin >= 0) and bool(np.isfinite(value))
    sign = ("above" if higher else "below") if strict else ("at least" if higher else "at most")
    return GateResult(
        name, passed, float(value), float(limit), float(margin), f"{value:.5g}, must be {sign} {limit:.5g}; {why}"
    )


def single_row_latency_ms(
    answer: Callable[[int], object], rows: int, clock: Callable[[], float], repeats: int = 200
) -> float:
    """Median time to answer one row, in milliseconds; `answer(i)` answers row `i`, `clock` counts seconds."""
    times = np.empty(repeats)
    for position in range(repeats):
        start = clock()
        answer(position % rows)
        times[position] = clock() - start
    return float(np.median(times) * 1000)


def calibration_curve(judged: Judged, bins: int = 10) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean stated probability, realised share and rows of each quantile bin of the positive class."""
    parts = quantile_bins(judged.output[:, 1], bins)
    stated = np.array([judged.output[part, 1].mean() for part in parts])
    realised = np.array([judged.truth[part].mean() for part in parts])
    return stated, realised, np.array([len(part) for part in parts])
