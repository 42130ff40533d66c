"""Has a model decayed? Mergeable sums of realised losses, the held-out reference, and the tests between them.

Losses are held against what was to be expected *for these inputs*; where labels are missing, see `estimation.py`.
"""

from collections.abc import Mapping, Sequence
from math import fsum, inf
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from mlops_assets.core.metrics import Floats, Task
from mlops_assets.core.monitoring.clusters import Baseline, fit_baseline, upper_tail
from mlops_assets.core.monitoring.outcomes import if_outcome, mean_and_variance

# the losses that may decide, the default first
HEADLINES: Mapping[Task, tuple[str, ...]] = {
    "binary": ("brier", "log_loss"),
    "multiclass": ("brier", "log_loss"),
    "regression": ("mae", "mse"),
}
SCALES = (1, 2, 4, 8)
_TWO_SIDED = ("calibration", "residual")


class LossSums(msgspec.Struct, frozen=True):
    """Sums over rows of one loss l, of what was expected of it x, and of its variance in theory s.

    x is the mean of l over the calibrated probabilities, or what a loss model says, or 1 where nothing is known; the
    reference settles its unit, so that only the shape of x over the rows matters. s likewise.
    """

    total: float
    squares: float
    expected: float
    expected_squares: float
    cross: float
    spread: float

    @classmethod
    def of(cls, loss: Floats, expected: Floats, spread: Floats) -> Self:
        """Sums of rows: loss, expected loss and variance of the loss, each of shape (n,)."""
        parts = (loss, loss**2, expected, expected**2, loss * expected, spread)
        return cls(*(float(part.sum()) for part in parts))

    @property
    def parts(self) -> tuple[float, ...]:
        return self.total, self.squares, self.expected, self.expected_squares, self.cross, self.spread


class PerformanceSums(msgspec.Struct, frozen=True):
    """All that is kept of a window's labelled rows. Windows merge by `+`, in any order.

    `cluster_squares` is the sum of squared cluster sizes: rows of one cluster (a day, say) share their luck. A window that was
    summed without naming clusters is one cluster.
    """

    rows: int
    cluster_squares: float
    losses: dict[str, LossSums]

    def __add__(self, other: "PerformanceSums") -> "PerformanceSums":
        return merge((self, other))

    def mean(self, loss: str) -> float:
        """Mean realised loss; NaN without rows."""
        return self.losses[loss].total / self.rows if self.rows else float("nan")


def sums_of(
    task: Task,
    truth: Floats,
    output: Floats,
    expected: Floats | None = None,
    clusters: NDArray[Any] | None = None,
) -> PerformanceSums:
    """Sum up labelled rows of one window.

    Parameters
    ----------
    truth
        Class codes 0..K-1 or values, shape (n,).
    output
        Probabilities, shape (n, K), or values, shape (n, 1).
    expected
        For a classifier its calibrated probabilities, shape (n, K), by default `output` itself; for a regression what a
        loss model says of the rows' absolute errors, shape (n,), by default the same of all.
    clusters
        One key a row, shape (n,), such as its day, where the rows of a window hang together in smaller groups than the window;
        by default the window is one group. The reference's blocks must be groups of this kind.

    Raises
    ------
    ValueError
        When shapes do not fit, or a value is not finite.
    """
    outputs = output.shape[1] if output.ndim == 2 else 0
    fits = outputs == 1 if task == "regression" else outputs >= 2
    if truth.shape != output.shape[:1] or not fits:
        raise ValueError(f"{task}: truth of shape {truth.shape} does not go with outputs of shape {output.shape}")
    if expected is not None and expected.shape != (truth.shape if task == "regression" else output.shape):
        raise ValueError(
            f"{task}: expectations of shape {expected.shape} do not go with outputs of shape {output.shape}"
        )
    for name, values in (("truth", truth), ("outputs", output), ("expectations", expected)):
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{task}: the {name} hold values that are not finite; leave those rows out")
    losses = _regression(truth, output, expected) if task == "regression" else _classification(truth, output, expected)
    sizes = np.array([len(truth)]) if clusters is None else np.unique(clusters, return_counts=True)[1]
    return PerformanceSums(len(truth), float((sizes.astype(np.float64) ** 2).sum()), losses)


def _classification(truth: Floats, output: Floats, calibrated: Floats | None) -> dict[str, LossSums]:
    """Log loss, Brier score and calibration of the answer, each with mean and variance over the calibrated probabilities.

    Calibration is the event less its probability: of the positive class of two (Spiegelhalter 1986), else of the most
    probable class (Guo et al. 2017, top label).
    """
    chances = output if calibrated is None else calibrated
    rows, codes = np.arange(len(truth)), truth.astype(np.int64)
    sums = {}
    for name in ("log_loss", "brier"):
        losses = if_outcome(name, output)
        sums[name] = LossSums.of(losses[rows, codes], *mean_and_variance(losses, chances))
    event = np.ones(len(truth), dtype=np.int64) if output.shape[1] == 2 else output.argmax(axis=1)
    chance = chances[rows, event]
    sums["calibration"] = LossSums.of((codes == event) - chance, np.ones(len(truth)), chance * (1 - chance))
    return sums


def _regression(truth: Floats, output: Floats, expected: Floats | None) -> dict[str, LossSums]:
    """Absolute and squared error and the residual; a row's error is taken to scale with what was expected of it."""
    residual = truth - output[:, 0]
    scale = np.ones(len(truth)) if expected is None else np.maximum(expected, 0.0)
    return {
        "mae": LossSums.of(np.abs(residual), scale, scale**2),
        "mse": LossSums.of(residual**2, scale**2, scale**4),
        "residual": LossSums.of(residual, np.ones(len(truth)), scale**2),
    }


class PerformanceReference(msgspec.Struct, frozen=True, dict=True):
    """What the model's losses were on rows that it had not been fitted on, in consecutive blocks. Kept as JSON.

    Blocks are what is taken to vary as a whole (a day; or a window, where windows are shorter), in time order.
    """

    task: Task
    blocks: tuple[PerformanceSums, ...]

    @classmethod
    def of(
        cls, task: Task, truth: Floats, output: Floats, blocks: NDArray[Any], expected: Floats | None = None
    ) -> Self:
        """Sum up out-of-sample rows by block key, shape (n,), blocks in the order in which their keys first appear.

        Raises
        ------
        ValueError
            When there is no row, or as `sums_of` says.
        """
        if not len(truth):
            raise ValueError("a reference needs rows: none of the held-out rows has a label")
        keys, first, place = np.unique(blocks, return_index=True, return_inverse=True)
        ordered = np.argsort(first, kind="stable")
        rows = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place, minlength=len(keys)))[:-1])
        parts = (rows[key] for key in ordered)
        return cls(
            task,
            tuple(sums_of(task, truth[at], output[at], None if expected is None else expected[at]) for at in parts),
        )

    @property
    def whole(self) -> PerformanceSums:
        return merge(self.blocks)

    def baselines(self) -> dict[str, Baseline]:
        """What the blocks say of each loss; worked out once."""
        known: dict[str, Baseline] | None = self.__dict__.get("_baselines")
        if known is None:
            rows = np.array([block.rows for block in self.blocks], dtype=np.float64)
            known = {}
            for name in self.blocks[0].losses:
                sums = np.array([block.losses[name].parts for block in self.blocks])
                known[name] = fit_baseline(rows, *sums.T, two_sided=name in _TWO_SIDED)
            self.__dict__["_baselines"] = known
        return known


def merge(windows: Sequence[PerformanceSums]) -> PerformanceSums:
    """All windows as one; at least one must be given."""
    if len(windows) == 1:
        return windows[0]
    names = windows[0].losses.keys()
    if any(window.losses.keys() != names for window in windows):
        raise ValueError("sums of different losses cannot be merged")
    losses = {
        name: LossSums(*map(fsum, zip(*(window.losses[name].parts for window in windows), strict=True)))
        for name in names
    }
    rows = sum(window.rows for window in windows)
    return PerformanceSums(rows, fsum(window.cluster_squares for window in windows), losses)


class PerformanceTest(msgspec.Struct, frozen=True):
    """One loss over the last `scale` windows against the reference.

    `z` counts standard errors from what was to be expected, positive where the loss is higher; `p_value` is corrected for all
    tests of the report. `relative` is the rise of the *headline* loss over its expectation, over the same windows.
    """

    loss: str
    scale: int
    rows: int
    z: float
    p_value: float
    alarm: bool
    relative: float


class PerformanceReport(msgspec.Struct, frozen=True):
    """The verdict on the newest window, and on the last few together.

    Value, expectation, interval and relative change are of the newest window; NaN where it has no labelled row.
    `decayed` asks for both at once, over the same windows: significance, and a rise of at least the floor.
    """

    loss: str
    rows: int
    value: float
    reference: float
    expected: float
    relative: float
    standard_error: float
    low: float
    high: float
    tests: tuple[PerformanceTest, ...]
    alarm: bool
    above_floor: bool
    decayed: bool
    blocks: int
    confidence: str
    reason: str


def assess_performance(
    reference: PerformanceReference,
    windows: Sequence[PerformanceSums],
    *,
    loss: str | None = None,
    floor: float = 0.10,
    alpha: float = 0.001,
    scales: Sequence[int] = SCALES,
    min_rows: int = 30,
) -> PerformanceReport:
    """Test the newest windows, one scale after the other, against the reference.

    Parameters
    ----------
    windows
        Labelled (matured) windows in time order, the newest last; more than the largest scale are not looked at.
    loss
        The headline loss; one of `HEADLINES`; by default the task's first.
    floor
        Smallest relative rise of the headline loss over its expectation that counts as decay.
    alpha
        Chance of a false alarm of one call, shared evenly (Bonferroni) by all losses and scales.
    scales
        Over how many last windows to test; those that the windows do not fill are left out, and still paid for.
    min_rows
        Fewest rows with which a test is made.

    Raises
    ------
    ValueError
        When no window is given, or the headline loss is none of the task's.
    """
    headline = HEADLINES[reference.task][0] if loss is None else loss
    if not windows:
        raise ValueError("no window to assess: give the newest at least")
    baselines = reference.baselines()
    if headline not in HEADLINES[reference.task]:
        may = ", ".join(HEADLINES[reference.task])
        raise ValueError(f"{headline!r} cannot decide on a {reference.task} model: choose from {may}")
    tests = []
    for scale in scales:
        merged = merge(windows[-scale:])
        if scale <= len(windows) and merged.rows >= min_rows:
            tests += _test_scale(baselines, headline, merged, scale, alpha, len(scales))
    return _report(reference, windows[-1], headline, tuple(tests), floor)


def _test_scale(
    baselines: Mapping[str, Baseline], headline: str, merged: PerformanceSums, scale: int, alpha: float, scales: int
) -> list[PerformanceTest]:
    relative = _relative(baselines[headline], merged, headline)
    tests = []
    # squared and absolute errors tell the same of a regression: the one that decides is tested, and paid for, alone
    tested = [name for name in baselines if name == headline or name not in HEADLINES["regression"]]
    for name in tested:
        baseline, sums = baselines[name], merged.losses[name]
        z, df = baseline.standardise(merged.rows, merged.cluster_squares, sums.total, sums.expected, sums.spread)
        tail = 2 * upper_tail(abs(z), df) if name in _TWO_SIDED else upper_tail(z, df)
        p_value = min(1.0, tail * len(tested) * scales)
        tests.append(PerformanceTest(name, scale, merged.rows, z, p_value, p_value < alpha, relative))
    return tests


def _relative(baseline: Baseline, window: PerformanceSums, headline: str) -> float:
    expected = baseline.ratio * window.losses[headline].expected
    return window.losses[headline].total / expected - 1 if expected > 0 else float("nan")


def _report(
    reference: PerformanceReference,
    newest: PerformanceSums,
    headline: str,
    tests: tuple[PerformanceTest, ...],
    floor: float,
) -> PerformanceReport:
    baseline = reference.baselines()[headline]
    sums = newest.losses[headline]
    value = newest.mean(headline)
    expected = baseline.ratio * sums.expected / newest.rows if newest.rows else float("nan")
    error, df = baseline.error(newest.rows, newest.cluster_squares, sums.expected, sums.spread)
    width = float(special.ndtri(0.975) if df == inf else special.stdtrit(df, 0.975)) * error
    # the strongest evidence first: what has decayed, then what alarms, then the smallest p
    strongest = min(tests, key=lambda test: (not (test.alarm and test.relative >= floor), test.p_value), default=None)
    decayed = strongest is not None and strongest.alarm and strongest.relative >= floor
    return PerformanceReport(
        loss=headline,
        rows=newest.rows,
        value=value,
        reference=reference.whole.mean(headline),
        expected=expected,
        relative=_relative(baseline, newest, headline),
        standard_error=error,
        low=value - width,
        high=value + width,
        tests=tests,
        alarm=any(test.alarm for test in tests),
        above_floor=any(test.relative >= floor for test in tests),
        decayed=decayed,
        blocks=len(reference.blocks),
        confidence=baseline.confidence,
        reason=_reason(headline, strongest, decayed, floor),
    )


def _reason(headline: str, strongest: PerformanceTest | None, decayed: bool, floor: float) -> str:
    if strongest is None:
        return "too few labelled rows to judge"
    over = "the newest window" if strongest.scale == 1 else f"the last {strongest.scale} windows"
    side = "above" if strongest.relative >= 0 else "below"
    change = f"{headline} over {over} is {abs(strongest.relative):.0%} {side} expectation"
    evidence = f"{strongest.loss} is {strongest.z:+.1f} standard errors off, corrected p = {strongest.p_value:.2g}"
    if decayed:
        return f"decayed: {change}; {evidence}"
    if strongest.alarm:
        return f"changed, but by less than the floor of {floor:.0%}: {change}; {evidence}"
    return f"no significant change: {change}; {evidence}"
