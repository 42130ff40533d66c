from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mlops_assets.core.evaluation import (
    MISSING,
    Evaluation,
    Evidence,
    GateResult,
    Interval,
    Judged,
    PairedComparison,
    SliceMetrics,
    baseline_output,
    calibration_curve,
    compare,
    judge,
    measure,
    point_metrics,
    single_row_latency_ms,
    slice_metrics,
)
from mlops_assets.core.metrics import METRICS, metrics_of
from mlops_assets.core.spec import GateSpec
from mlops_assets_tests.core.examples import make_spec, numbers_spec

NAN = float("nan")
GATE: TypeAdapter[Any] = TypeAdapter(GateSpec)
SPEC = make_spec(evaluation={"bootstrap_resamples": 50})
REGRESSION = numbers_spec("x", evaluation={"bootstrap_resamples": 50})


def binary(positive: Any, truth: Any) -> Judged:
    positive = np.asarray(positive, dtype=float)
    return Judged(np.asarray(truth, dtype=float), np.column_stack([1 - positive, positive]))


def values(output: Any, truth: Any) -> Judged:
    return Judged(np.asarray(truth, dtype=float), np.asarray(output, dtype=float).reshape(-1, 1))


def random_binary(rows: int, seed: int = 0) -> Judged:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, rows)
    return binary(np.clip(truth * 0.2 + random.random(rows) * 0.8, 0, 1), truth)


def evidence(**changes: Any) -> Evidence:
    given: dict[str, Any] = {
        "metrics": {"roc_auc": Interval(0.8, 0.75, 0.85), "brier": Interval(0.18, 0.17, 0.19)},
        "baseline": {"roc_auc": 0.5, "brier": 0.2},
        "slices": (),
        "comparisons": (),
        "latency_ms": 2.0,
    }
    return Evidence(**{**given, **changes})


def verdict(gate: dict[str, Any], **changes: Any) -> GateResult:
    (result,) = judge((GATE.validate_python(gate),), evidence(**changes))
    return result


def comparison(champion: float, loss: tuple[float, float, float], metric: str = "brier") -> PairedComparison:
    return PairedComparison(metric, 900, champion, champion + loss[0], Interval(*loss))


SLICES = (
    SliceMetrics("origin", "EWR", 500, {"roc_auc": 0.7, "brier": 0.2}),
    SliceMetrics("origin", "JFK", 300, {"roc_auc": 0.6, "brier": 0.1}),
)
LIMIT, BASELINE, CHAMPION = "limit", "baseline", "champion"
CASES: list[tuple[dict[str, Any], dict[str, Any], bool, float]] = [
    ({"metric": "roc_auc", "at_least": 0.75}, {}, True, 0.05),
    ({"metric": "roc_auc", "at_least": 0.8}, {}, True, 0.0),
    ({"metric": "roc_auc", "at_least": 0.85}, {}, False, -0.05),
    ({"metric": "brier", "at_most": 0.2}, {}, True, 0.02),
    ({"metric": "brier", "at_most": 0.1}, {}, False, -0.08),
    ({"metric": "roc_auc", "at_least": 0.6, "per_slice": True}, {"slices": SLICES}, True, 0.0),
    ({"metric": "roc_auc", "at_least": 0.65, "per_slice": True}, {"slices": SLICES}, False, -0.05),
    ({"metric": "brier", "at_most": 0.15, "per_slice": True}, {"slices": SLICES}, False, -0.05),
    ({"kind": BASELINE, "metric": "brier"}, {}, True, 0.02),
    ({"kind": BASELINE, "metric": "brier", "by": 0.05}, {}, True, 0.01),
    ({"kind": BASELINE, "metric": "brier", "by": 0.2}, {}, False, -0.02),
    ({"kind": BASELINE, "metric": "roc_auc", "by": 0.5}, {}, True, 0.05),
    ({"kind": BASELINE, "metric": "roc_auc", "by": 0.8}, {}, False, -0.1),
    ({"kind": CHAMPION, "metric": "brier"}, {"comparisons": (comparison(0.2, (0, 0, 0)),)}, True, 0.0),
    ({"kind": CHAMPION, "metric": "brier"}, {"comparisons": (comparison(0.2, (-0.01, -0.02, 0.001)),)}, False, -0.001),
    (
        {"kind": CHAMPION, "metric": "brier", "margin": 0.05},
        {"comparisons": (comparison(0.2, (0, -0.02, 0.004)),)},
        True,
        0.006,
    ),
    (
        {"kind": CHAMPION, "metric": "brier", "margin": 0.01},
        {"comparisons": (comparison(0.2, (0, -0.02, 0.004)),)},
        False,
        -0.002,
    ),
    ({"kind": "latency", "at_most_ms": 5}, {}, True, 3.0),
    ({"kind": "latency", "at_most_ms": 1.5}, {}, False, -0.5),
]


@pytest.mark.parametrize(("gate", "changes", "passed", "margin"), CASES)
def test_a_gate_on_known_numbers(gate: dict[str, Any], changes: dict[str, Any], passed: bool, margin: float) -> None:
    result = verdict(gate, **changes)
    assert result.margin == pytest.approx(margin, abs=1e-12)
    assert result.passed is passed
    assert result.gate == GATE.validate_python(gate).name
    assert result.value is not None
    assert f"{result.value:.5g}, must be" in result.why


def test_a_model_that_only_equals_the_trivial_one_does_not_beat_it() -> None:
    assert not verdict({"kind": BASELINE, "metric": "brier"}, baseline={"brier": 0.18}).passed


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ({"metric": "roc_auc", "at_least": 0.0}, {"metrics": {"roc_auc": Interval(NAN, NAN, NAN)}}),
        ({"metric": "brier", "at_most": 1.0}, {"metrics": {"brier": Interval(NAN, NAN, NAN)}}),
        ({"kind": BASELINE, "metric": "brier"}, {"metrics": {"brier": Interval(NAN, NAN, NAN)}}),
        ({"kind": BASELINE, "metric": "brier"}, {"baseline": {"brier": NAN}}),
        ({"kind": CHAMPION, "metric": "brier", "margin": 0.9}, {"comparisons": (comparison(0.2, (NAN, NAN, NAN)),)}),
        ({"kind": CHAMPION, "metric": "brier", "margin": 0.9}, {"comparisons": (comparison(NAN, (0.0, 0.0, 0.0)),)}),
        ({"kind": "latency", "at_most_ms": 5}, {"latency_ms": NAN}),
        ({"metric": "brier", "at_most": 1e9}, {"metrics": {"brier": Interval(-np.inf, 0, 0)}}),
    ],
)
def test_what_is_not_a_number_passes_no_gate(gate: dict[str, Any], changes: dict[str, Any]) -> None:
    assert verdict(gate, **changes).passed is False


@pytest.mark.parametrize("limit", [{"metric": "roc_auc", "at_least": 0.0}, {"metric": "brier", "at_most": 1.0}])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_slice_that_is_not_a_number_passes_no_gate_wherever_it_stands(limit: dict[str, Any], place: int) -> None:
    """The worst slice was once looked for with `min`, which passes over a NaN that does not come first."""
    strange = SliceMetrics("origin", "LGA", 250, {"roc_auc": NAN, "brier": NAN})
    slices = (*SLICES[:place], strange, *SLICES[place:])
    result = verdict({**limit, "per_slice": True}, slices=slices)
    assert result.passed is False
    assert "worst slice origin = LGA, 250 rows" in result.why


def test_a_gate_per_slice_without_slices_is_not_passed() -> None:
    result = verdict({"metric": "roc_auc", "at_least": 0.5, "per_slice": True})
    assert (result.passed, result.value) == (False, None)
    assert "min_slice_rows" in result.why


def test_the_first_model_has_no_champion_to_beat() -> None:
    assert verdict({"kind": CHAMPION, "metric": "brier"}).passed


def test_an_evaluation_passes_when_all_its_gates_do() -> None:
    gates = (verdict({"kind": "latency", "at_most_ms": 5}), verdict({"kind": "latency", "at_most_ms": 1}))
    evaluation = Evaluation("delay", 1, 9, {}, {}, (), (), "", 2.0, gates[:1])
    assert evaluation.passed
    assert not msgspec.structs.replace(evaluation, gates=gates).passed


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_the_interval_of_a_mean_holds_its_value(errors: list[float], seed: int) -> None:
    spec = numbers_spec(
        "x",
        evaluation={"bootstrap_resamples": 100, "confidence": 0.99},
        training={"estimator": "sklearn.linear_model.LinearRegression", "holdout": "1d", "seed": seed},
    )
    for name, interval in measure(spec, values(errors, np.zeros(len(errors)))).items():
        if METRICS[name].is_mean:
            margin = 1e-9 * abs(interval.value)
            assert interval.low - margin <= interval.value <= interval.high + margin


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    judged = random_binary(2000)
    rows = METRICS["brier"].rows(judged.truth, judged.output, 0.5)  # type: ignore[misc]
    interval = measure(SPEC, judged)["brier"]
    half = 1.96 * rows.std() / np.sqrt(len(rows))
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.3)


def test_the_interval_of_many_rows_is_taken_from_fewer_and_narrowed() -> None:
    """What is no mean is resampled with at most 5,000 rows; its interval must still be that of all of them."""
    few, many = (measure(SPEC, random_binary(rows))["roc_auc"] for rows in (5_000, 20_000))
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(0.5, rel=0.3)
    assert many.low < many.value < many.high


def test_measures_are_the_same_for_one_seed_and_complete() -> None:
    judged = random_binary(60)
    assert measure(SPEC, judged) == measure(SPEC, judged)
    assert tuple(measure(SPEC, judged)) == metrics_of("binary") == tuple(point_metrics(SPEC, judged))


def test_one_class_alone_leaves_what_needs_two_without_a_value() -> None:
    measured = measure(SPEC, binary([0.2, 0.4, 0.3], [0, 0, 0]))
    assert all(np.isnan(value) for value in msgspec.structs.astuple(measured["roc_auc"]))
    assert measured["accuracy"] == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("strange", [NAN, np.inf])
def test_answers_that_are_no_numbers_are_not_judged(strange: float) -> None:
    """A classifier that answers NaN was once taken to have answered the first class, with the accuracy of that."""
    with pytest.raises(ValueError, match="1 of 3 answers of the model are no finite numbers"):
        binary([0.1, strange, 0.3], [0, 0, 0])


def test_a_classifier_without_probabilities_is_not_judged() -> None:
    with pytest.raises(ValueError, match=r"'delay': .*LogisticRegression gives one value a row and no probabilities"):
        measure(SPEC, values([0, 1, 1], [0, 1, 1]))


def test_the_trivial_model_answers_frequencies_or_the_median() -> None:
    assert baseline_output(SPEC, np.array([0, 0, 0, 1.0]), 2, 2).tolist() == [[0.75, 0.25]] * 2
    multiclass = make_spec(task="multiclass")
    assert baseline_output(multiclass, np.array([0, 0, 2, 2.0]), 4, 1).tolist() == [[0.5, 0.0, 0.5, 0.0]]
    assert baseline_output(REGRESSION, np.array([1, 2, 9.0]), 0, 2).tolist() == [[2.0], [2.0]]


def test_a_model_compared_with_itself_is_exactly_equal() -> None:
    judged = random_binary(300)
    comparisons = compare(SPEC, judged.truth, judged.output, judged.output)
    assert [one.metric for one in comparisons] == ["brier", "log_loss", "accuracy"]
    for one in comparisons:
        assert (one.loss.value, one.loss.low, one.loss.high) == (0.0, 0.0, 0.0)
        assert one.champion == one.candidate
        assert one.rows == 300
    gate = {"kind": CHAMPION, "metric": "accuracy"}
    assert verdict(gate, comparisons=comparisons).passed


def test_a_loss_is_positive_where_the_candidate_is_worse_whichever_way_the_metric_goes() -> None:
    truth = np.array([1.0, 0, 1, 0] * 50)
    good, bad = (binary(np.where(truth == 1, 0.5 + lean, 0.5 - lean), truth).output for lean in (0.4, -0.1))
    worse = {one.metric: one.loss for one in compare(SPEC, truth, good, bad)}
    assert all(loss.low > 0 for loss in worse.values())
    assert worse["accuracy"].value == 1.0
    better = {one.metric: one.loss for one in compare(SPEC, truth, bad, good)}
    assert all(loss.high < 0 for loss in better.values())
    assert better["brier"].value == -worse["brier"].value == pytest.approx(0.01 - 0.36)


def test_a_champion_that_answers_nan_gives_no_comparison() -> None:
    """Resamples without the strange row were once enough for an interval, and the gate was passed."""
    truth = np.zeros(50)
    champion = np.ones((50, 1))
    champion[7] = NAN
    comparisons = compare(REGRESSION, truth, champion, np.zeros((50, 1)))
    assert all(np.isnan(one.loss.high) for one in comparisons)
    assert not verdict({"kind": CHAMPION, "metric": "mae"}, comparisons=comparisons).passed


def test_slices_are_levels_of_categories_and_quarters_of_numbers() -> None:
    spec = make_spec(evaluation={"slices": ["origin", "temp", "night"], "min_slice_rows": 10})
    judged = random_binary(100)
    frame = pd.DataFrame(
        {"origin": ["EWR"] * 50 + ["JFK"] * 41 + ["LGA"] * 9, "temp": np.arange(100.0), "night": [0.0, 1.0] * 50},
        index=np.arange(100) + 7,
    )
    slices = {(one.feature, one.level): one for one in slice_metrics(spec, frame, judged)}
    assert [(feature, one.rows) for (feature, _), one in slices.items()] == [
        ("origin", 50),
        ("origin", 41),
        *[("temp", 25)] * 4,
        *[("night", 50)] * 2,
    ]
    first = Judged(judged.truth[:50], judged.output[:50])
    assert slices["origin", "EWR"].metrics == point_metrics(spec, first)


def test_slices_of_numbers_rise() -> None:
    """They were put in the order of their text: 10 before 2, a quarter from 104 on before one from 56 on."""
    spec = make_spec(evaluation={"slices": ["temp", "seats"], "min_slice_rows": 1})
    frame = pd.DataFrame({"temp": np.arange(8.0, 208, 2), "seats": [2.0, 10.0, 1.0, 300.0] * 25})
    slices = slice_metrics(spec, frame, random_binary(100))
    assert [one.level for one in slices if one.feature == "seats"] == ["1.0", "2.0", "10.0", "300.0"]
    assert [one.level.partition(",")[0] for one in slices if one.feature == "temp"] == [
        "(7.999",
        "(57.5",
        "(107.0",
        "(156.5",
    ]


def test_missing_values_are_a_slice_of_their_own() -> None:
    """A model that fails where a value is missing passed a gate on every slice."""
    spec = make_spec(evaluation={"slices": ["origin", "temp"], "min_slice_rows": 10})
    judged = random_binary(100)
    frame = pd.DataFrame({"origin": [None] * 40 + ["EWR"] * 60, "temp": [5.0] * 80 + list(np.arange(15.0)) + [NAN] * 5})
    slices = slice_metrics(spec, frame, judged)
    assert [(one.feature, one.level, one.rows) for one in slices if one.feature == "origin"] == [
        ("origin", "EWR", 60),
        ("origin", MISSING, 40),
    ]
    assert slices[1].metrics == point_metrics(spec, Judged(judged.truth[:40], judged.output[:40]))
    # the nine above 5 and the five that are missing are too few
    assert [one.rows for one in slices if one.feature == "temp"] == [86]


def test_the_calibration_curve_counts_every_row() -> None:
    stated, realised, rows = calibration_curve(binary([0.1, 0.1, 0.9, 0.7], [0, 1, 1, 1]), bins=2)
    assert (stated.tolist(), realised.tolist(), rows.tolist()) == ([0.1, pytest.approx(0.8)], [0.5, 1.0], [2, 2])


def test_the_latency_is_the_median_of_single_answers() -> None:
    times = iter(np.cumsum([0.0, 0.001, 1, 0.003, 1, 0.9, 1, 0.003]).tolist())
    asked: list[int] = []
    assert single_row_latency_ms(asked.append, 3, lambda: next(times), repeats=4) == pytest.approx(3.0)
    assert asked == [0, 1, 2, 0]
