import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.metrics import METRICS, Floats, Task, one_hot
from mlops_assets.core.monitoring.outcomes import if_outcome
from mlops_assets.core.monitoring.performance import (
    PerformanceReference,
    PerformanceSums,
    assess_performance,
    merge,
    sums_of,
)

TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")
BLOCK = 400


def rows_of(task: Task, rows: int, seed: int, *, day: float = 0.0, flip: float = 0.0) -> tuple[Floats, Floats]:
    """Truth and calibrated outputs; `day` shifts the residuals of each block of a regression by chance, `flip` spoils labels."""
    random = np.random.default_rng(seed)
    if task == "regression":
        value = random.normal(100, 20, rows)
        shift = np.repeat(random.normal(0, day, -(-rows // BLOCK)), BLOCK)[:rows]
        return value + random.normal(0, 5, rows) + shift, value[:, None]
    output = random.dirichlet([1, 2] if task == "binary" else [1, 2, 1], rows)
    truth = (random.random(rows)[:, None] > output.cumsum(axis=1)[:, :-1]).sum(axis=1).astype(float)
    spoilt = random.random(rows) < flip
    return np.where(spoilt, (truth + 1) % output.shape[1], truth), output


def blocks(rows: int) -> Floats:
    return np.arange(rows) // BLOCK


def reference_of(task: Task, count: int = 40, seed: int = 0, day: float = 0.0) -> PerformanceReference:
    truth, output = rows_of(task, count * BLOCK, seed, day=day)
    return PerformanceReference.of(task, truth, output, blocks(len(truth)))


def windows_of(task: Task, count: int, seed: int, **options: float) -> list[PerformanceSums]:
    truth, output = rows_of(task, count * BLOCK, seed, **options)
    parts = [slice(at, at + BLOCK) for at in range(0, len(truth), BLOCK)]
    return [sums_of(task, truth[at], output[at]) for at in parts]


def close(first: PerformanceSums, second: PerformanceSums) -> bool:
    same = (first.rows, first.cluster_squares) == (second.rows, second.cluster_squares)
    return same and all(first.losses[name].parts == pytest.approx(second.losses[name].parts) for name in first.losses)


@pytest.mark.parametrize("task", TASKS)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 299), max_size=5, unique=True), order=st.randoms())
@settings(max_examples=20, deadline=None)
def test_windows_merge_to_the_whole_in_any_order(task: Task, seed: int, cuts: list[int], order: object) -> None:
    truth, output = rows_of(task, 300, seed)
    edges = [0, *sorted(cuts), 300]
    keys = np.searchsorted(edges[1:-1], np.arange(300), side="right")
    parts = [sums_of(task, truth[keys == key], output[keys == key]) for key in range(len(edges) - 1)]
    whole = sums_of(task, truth, output, clusters=keys)
    order.shuffle(parts)  # type: ignore[attr-defined]
    assert close(merge(parts), whole)
    one = parts[0]
    for part in parts[1:]:
        one = part + one
    assert close(one, whole)


@pytest.mark.parametrize("task", TASKS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_rows_does_not_matter(task: Task, seed: int) -> None:
    truth, output = rows_of(task, 200, seed)
    shuffled = np.random.default_rng(seed).permutation(200)
    assert close(sums_of(task, truth, output), sums_of(task, truth[shuffled], output[shuffled]))


@pytest.mark.parametrize("task", TASKS)
@given(seed=st.integers(0, 1_000), day=st.sampled_from([0.0, 5.0]), count=st.integers(2, 40))
@settings(max_examples=15, deadline=None)
def test_the_reference_raises_no_alarm_against_itself(task: Task, seed: int, day: float, count: int) -> None:
    reference = reference_of(task, count, seed, day)
    for last in range(1, count + 1):
        assert not assess_performance(reference, reference.blocks[max(0, last - 8) : last]).alarm
    assert assess_performance(reference, [reference.whole]).relative == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("task", "loss"), [("binary", "brier"), ("multiclass", "log_loss"), ("regression", "mae")])
def test_the_mean_of_a_loss_is_the_metric(task: Task, loss: str) -> None:
    truth, output = rows_of(task, 500, 1)
    assert sums_of(task, truth, output).mean(loss) == pytest.approx(METRICS[loss].score(truth, output, 0.5))


@pytest.mark.parametrize("name", ["log_loss", "brier", "accuracy"])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_the_loss_if_a_class_came_true_is_the_metrics(name: str, task: Task) -> None:
    _, output = rows_of(task, 50, 2)
    measure = METRICS[name].rows
    assert measure is not None
    for code in range(output.shape[1]):
        truth = np.full(50, float(code))
        assert if_outcome(name, output, 0.4)[:, code] == pytest.approx(measure(truth, output, 0.4))


def test_what_is_expected_of_calibrated_probabilities_comes_true() -> None:
    truth, output = rows_of("binary", 100_000, 3)
    sums = sums_of("binary", truth, output).losses
    for name in ("log_loss", "brier"):
        assert sums[name].total == pytest.approx(sums[name].expected, abs=4 * sums[name].spread ** 0.5)
    assert abs(sums["calibration"].total) < 4 * sums["calibration"].spread ** 0.5


def test_the_top_label_of_many_classes_is_what_is_calibrated() -> None:
    truth, output = rows_of("multiclass", 300, 4)
    hits = one_hot(truth, 3)[np.arange(300), output.argmax(axis=1)]
    assert sums_of("multiclass", truth, output).losses["calibration"].total == pytest.approx(
        (hits - output.max(axis=1)).sum()
    )


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_flipped_labels_are_decay(task: Task) -> None:
    report = assess_performance(reference_of(task), windows_of(task, 8, 7, flip=0.25))
    assert report.alarm
    assert report.above_floor
    assert report.decayed
    assert report.reason.startswith("decayed")
    assert report.low < report.value < report.high


def test_a_regression_that_is_off_to_one_side_is_decay_and_a_better_one_is_not() -> None:
    reference = reference_of("regression")
    truth, output = rows_of("regression", BLOCK, 5)
    worse = assess_performance(reference, [sums_of("regression", truth, output + 4)])
    assert worse.decayed
    better = assess_performance(reference, [sums_of("regression", truth, (truth[:, None] * 3 + output) / 4)])
    assert not better.alarm
    assert better.relative < -0.5


def test_what_is_significant_but_small_is_no_decay() -> None:
    reference = reference_of("regression", 200)
    truth, output = rows_of("regression", 50_000, 5)
    report = assess_performance(reference, [sums_of("regression", truth, output + 0.5)])
    assert report.alarm
    assert not report.decayed
    assert "less than the floor" in report.reason


def test_harder_inputs_are_no_decay_where_the_loss_was_to_be_expected() -> None:
    random = np.random.default_rng(8)
    scale = random.uniform(1, 9, 16_000)
    residual = random.normal(0, scale)
    output = np.zeros((16_000, 1))
    with_expected = PerformanceReference.of("regression", residual, output, blocks(16_000), scale)
    without = PerformanceReference.of("regression", residual, output, blocks(16_000))
    hard = random.uniform(8, 9, 2_000)
    truth = random.normal(0, hard)
    known = sums_of("regression", truth, np.zeros((2_000, 1)), hard)
    unknown = sums_of("regression", truth, np.zeros((2_000, 1)))
    assert not assess_performance(with_expected, [known]).alarm
    assert assess_performance(without, [unknown]).decayed


def test_rows_of_one_day_are_not_taken_for_independent() -> None:
    """Days vary by their weather: a day as bad as many days of the reference is none to raise an alarm for."""
    calm, moody = reference_of("regression", 40), reference_of("regression", 40, day=5.0)
    assert calm.baselines()["residual"].overdispersion < 2
    assert moody.baselines()["residual"].overdispersion > 100
    truth, output = rows_of("regression", BLOCK, 9)
    window = [sums_of("regression", truth + 6, output)]
    assert assess_performance(calm, window).alarm
    assert not assess_performance(moody, window).alarm


def test_a_week_is_judged_by_days_of_the_reference() -> None:
    reference = reference_of("regression", 40, day=5.0)
    truth, output = rows_of("regression", 7 * BLOCK, 10, day=5.0)
    days = sums_of("regression", truth, output, clusters=blocks(len(truth)))
    one = sums_of("regression", truth, output)
    baseline = reference.baselines()["residual"]
    errors = [baseline.error(sums.rows, sums.cluster_squares, sums.rows, sums.rows)[0] for sums in (days, one)]
    assert errors[0] == pytest.approx(5 / 7**0.5, rel=0.35)
    assert errors[1] > 2 * errors[0]


def test_few_blocks_ask_for_more() -> None:
    truth, output = rows_of("regression", BLOCK, 11)
    window = [sums_of("regression", truth + 1.5, output)]
    many, few = (assess_performance(reference_of("regression", count), window) for count in (40, 3))
    assert many.alarm
    assert not few.alarm
    assert "few blocks" in few.confidence


def test_one_block_tells_nothing() -> None:
    report = assess_performance(reference_of("regression", 1), windows_of("regression", 8, 1, day=50.0))
    assert not report.alarm
    assert "no test" in report.confidence


def test_neighbouring_blocks_that_follow_each_other_widen_the_error() -> None:
    random = np.random.default_rng(12)
    level = np.zeros(120)
    for at in range(1, 120):
        level[at] = 0.8 * level[at - 1] + random.normal(0, 3)
    truth = np.repeat(level, 50) + random.normal(0, 5, 6_000)
    keys = np.arange(6_000) // 50
    baseline = PerformanceReference.of("regression", truth, np.zeros((6_000, 1)), keys).baselines()["residual"]
    assert 0.3 < baseline.autocorrelation < 0.8
    assert baseline.df < 100
    shuffled = random.permutation(120)[keys]
    rows = np.argsort(shuffled, kind="stable")
    mixed = PerformanceReference.of("regression", truth[rows], np.zeros((6_000, 1)), shuffled[rows])
    assert mixed.baselines()["residual"].autocorrelation < 0.1


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_false_alarms_of_calm_streams_are_rare(task: Task) -> None:
    incidents = 0
    for seed in range(4):
        reference = reference_of(task, 40, seed, day=3.0)
        stream = windows_of(task, 100, seed + 100, day=3.0)
        incidents += any(assess_performance(reference, stream[max(0, at - 7) : at + 1]).alarm for at in range(100))
    assert incidents <= 1


def test_a_calibration_that_is_off_either_way_raises_an_alarm() -> None:
    reference = reference_of("binary")
    truth, output = rows_of("binary", 8 * BLOCK, 13)
    for factor in (0.7, 1.3):
        positive = np.clip(output[:, 1] * factor, 0, 0.999)
        report = assess_performance(reference, [sums_of("binary", truth, np.column_stack([1 - positive, positive]))])
        test = next(test for test in report.tests if test.loss == "calibration")
        assert test.alarm
        assert (test.z > 0) == (factor < 1)


def test_too_few_rows_are_not_judged() -> None:
    truth, output = rows_of("binary", 10, 1)
    report = assess_performance(reference_of("binary"), [sums_of("binary", truth, output)])
    assert report.tests == ()
    assert not report.decayed
    assert report.reason == "too few labelled rows to judge"


def test_a_window_without_rows_has_no_value() -> None:
    empty = sums_of("binary", np.empty(0), np.empty((0, 2)))
    report = assess_performance(reference_of("binary"), [empty])
    assert np.isnan(report.value)
    assert not report.alarm
    assert close(merge([*windows_of("binary", 1, 1), empty]), windows_of("binary", 1, 1)[0])


def test_an_error_that_was_always_nothing_alarms_as_soon_as_it_is_something() -> None:
    truth = np.arange(4_000.0)
    reference = PerformanceReference.of("regression", truth, truth[:, None], blocks(4_000))
    assert not assess_performance(reference, [sums_of("regression", truth, truth[:, None])]).alarm
    assert not assess_performance(reference, list(reference.blocks)).alarm


@pytest.mark.parametrize("task", TASKS)
def test_a_reference_survives_json(task: Task) -> None:
    reference = reference_of(task, 5)
    again = msgspec.json.decode(msgspec.json.encode(reference), type=PerformanceReference)
    assert again == reference
    windows = windows_of(task, 8, 3)
    assert assess_performance(again, windows) == assess_performance(reference, windows)


def test_blocks_keep_the_order_in_which_they_come() -> None:
    truth, output = rows_of("regression", 60, 1)
    keys = np.repeat(["z", "a", "m"], 20)
    reference = PerformanceReference.of("regression", truth, output, keys)
    for block, at in zip(reference.blocks, (slice(0, 20), slice(20, 40), slice(40, 60)), strict=True):
        assert close(block, sums_of("regression", truth[at], output[at]))


MISTAKES: list[tuple[str, Task, Floats, Floats, Floats | None]] = [
    ("does not go with", "binary", np.zeros(3), np.zeros((3, 1)), None),
    ("does not go with", "regression", np.zeros(3), np.zeros((3, 2)), None),
    ("does not go with", "regression", np.zeros(2), np.zeros((3, 1)), None),
    ("do not go with", "regression", np.zeros(3), np.zeros((3, 1)), np.zeros((3, 1))),
    ("truth hold values that are not finite", "regression", np.full(3, np.nan), np.zeros((3, 1)), None),
    ("outputs hold values", "regression", np.zeros(3), np.full((3, 1), np.inf), None),
]


@pytest.mark.parametrize(("message", "task", "truth", "output", "expected"), MISTAKES)
def test_what_does_not_fit_is_refused(
    message: str, task: Task, truth: Floats, output: Floats, expected: Floats | None
) -> None:
    with pytest.raises(ValueError, match=message):
        sums_of(task, truth, output, expected)


def test_what_cannot_be_judged_is_refused() -> None:
    reference = reference_of("regression", 3)
    with pytest.raises(ValueError, match="no window"):
        assess_performance(reference, [])
    with pytest.raises(ValueError, match="choose from mae, mse"):
        assess_performance(reference, reference.blocks, loss="brier")
    with pytest.raises(ValueError, match="different losses"):
        merge([reference.whole, *windows_of("binary", 1, 1)])
    with pytest.raises(ValueError, match="needs rows"):
        PerformanceReference.of("regression", np.empty(0), np.empty((0, 1)), np.empty(0))
