"""Have the inputs of a model changed? Which feature, how, how much, and how sure that is.

Works on counts alone, in O(bins) a window. Whether the model has become worse is another question (performance has its own module).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_assets.core.monitoring import wording
from mlops_assets.core.monitoring.dispersion import CELLS, FAMILIES, FEWEST_BLOCKS, LOCATION, SHAPE, SPREAD, Dispersion
from mlops_assets.core.monitoring.measures import Counts, Floats, Measures
from mlops_assets.core.monitoring.pooling import MOST_WINDOWS, SCALES, judged
from mlops_assets.core.monitoring.profile import Binning, FeatureBins, WindowProfile
from mlops_assets.core.monitoring.rare import NEARLY_STUCK, MissingRate, RangeRate, UnseenRate, mostly_outside, stuck
from mlops_assets.core.monitoring.reference import ReferenceProfile
from mlops_assets.core.monitoring.severity import WARNING, Severity, Stability, severity_of
from mlops_assets.core.monitoring.volume import Volume, VolumeReport


class FeatureDrift(msgspec.Struct, frozen=True):
    """What is known of one feature in the newest window.

    Attributes
    ----------
    severity
        By `psi`; ``none`` where the feature raised no alarm.
    alarm
        Whether `p_value` is below the detector's level, or the feature is stuck.
    p_value
        Corrected (Bonferroni) for cells, families of tests, scales and features.
    test
        The family that fired, or came nearest: location, spread, shape, category mix, missing, unseen, out of range, stuck.
    scale
        Over how many last windows.
    psi
        Population stability index of the newest window against the whole reference, less its bias.
    effect
        √psi, or the excess share of missing, unseen or out-of-range rows where that is larger: comparable between features,
        0 for no change, and about 1 for a change that no row escapes.
    """

    feature: str
    severity: Severity
    alarm: bool
    p_value: float
    test: str
    scale: int
    psi: float
    effect: float
    missing_rate: float
    reference_missing_rate: float
    unseen_share: float
    out_of_range_share: float
    stuck: bool
    importance: float
    reason: str


class DriftReport(msgspec.Struct, frozen=True):
    """The verdict on the newest window. `features` are ranked: alarms first, then by importance × effect.

    Attributes
    ----------
    enough
        Whether the window has the rows it takes to say anything; without them nothing alarms.
    blocks
        Reference blocks the detector learned from.
    confidence
        How far alarms can be trusted, in words.
    """

    rows: int
    features: tuple[FeatureDrift, ...]
    volume: VolumeReport
    enough: bool
    blocks: int
    confidence: str


@dataclass(frozen=True)
class WindowTable:
    """W consecutive windows in time order, one a row; the columns are those of `WindowProfile`."""

    rows: Floats
    counts: Counts
    minimum: Floats
    maximum: Floats
    phase: Floats

    @classmethod
    def of(cls, windows: Sequence[WindowProfile], binning: Binning) -> "WindowTable":
        """Stack profiles that were made with `binning`."""
        for window in windows:
            if window.counts.shape != (binning.cells,):
                raise ValueError(
                    f"a window has {len(window.counts)} cells and the reference {binning.cells}; "
                    "profile it with the binning of this reference"
                )
        width = len(binning.features)
        return cls(
            np.array([window.rows for window in windows], dtype=np.float64),
            np.array([window.counts for window in windows], dtype=np.int64).reshape(-1, binning.cells),
            np.array([window.minimum for window in windows], dtype=np.float64).reshape(-1, width),
            np.array([window.maximum for window in windows], dtype=np.float64).reshape(-1, width),
            np.array([window.phase for window in windows], dtype=np.float64).reshape(-1, 6),
        )

    @property
    def mean_phase(self) -> Floats:
        """Mean cos and sin of hour, weekday and day of the year, (W, 6)."""
        mean: Floats = self.phase / np.maximum(self.rows, 1.0)[:, None]
        return mean


@dataclass(frozen=True)
class Scan:
    """Verdicts on W windows and F features, each array of shape (W, F); `test` is a position in `TESTS`."""

    alarm: NDArray[np.bool_]
    p_value: Floats
    test: NDArray[np.int64]
    scale: NDArray[np.int64]
    stuck: NDArray[np.bool_]
    psi: Floats


TESTS = (*FAMILIES, "missing", "unseen", "out of range", "stuck")
_MISSING, _UNSEEN, _OUT_OF_RANGE = (TESTS.index(name) for name in ("missing", "unseen", "out of range"))


class DriftDetector:
    """Compares windows with a reference. Everything that can be learned from the reference is learned here, once.

    Parameters
    ----------
    reference
        Its blocks should be windows of the size that will be assessed: what they differ by is what windows may differ by.
    alpha
        Chance of any false alarm in a window, over all features and tests.
    min_rows
        Windows with fewer rows never alarm.
    """

    def __init__(self, reference: ReferenceProfile, *, alpha: float = 0.001, min_rows: int = 30) -> None:
        self.reference, self.alpha, self.min_rows = reference, alpha, min_rows
        self._binning = reference.binning
        table = WindowTable.of([block for block in reference.blocks if block.rows], self._binning)
        self.blocks = len(table.rows)
        self._watches = tuple(
            _Watch(bins, place, self._binning.slice_of(bins.name), reference.whole, table)
            for place, bins in enumerate(self._binning.features)
        )
        self._volume = Volume(table.rows, table.mean_phase, alpha)

    @property
    def overdispersed(self) -> tuple[str, ...]:
        """Features whose reference blocks differ by more than independent rows would."""
        return tuple(watch.bins.name for watch in self._watches if watch.dispersion.overdispersed)

    def assess(self, windows: Sequence[WindowProfile]) -> DriftReport:
        """Judge the newest of consecutive windows.

        Parameters
        ----------
        windows
            In time order, the newest last; more than the last eight make no difference.

        Raises
        ------
        ValueError
            Without a window, or where one was profiled with another binning.
        """
        if not windows:
            raise ValueError("there is no window to assess; pass at least the newest one")
        table = WindowTable.of(windows[-MOST_WINDOWS:], self._binning)
        scan = self._judge(table, newest=True)
        rows = int(table.rows[-1])
        features = [self._report(watch, table, scan) for watch in self._watches]
        features.sort(key=lambda one: (not one.alarm, -one.importance * one.effect, one.feature))
        return DriftReport(
            rows=rows,
            features=tuple(features),
            volume=self._volume.report(table.rows, table.mean_phase),
            enough=rows >= self.min_rows,
            blocks=self.blocks,
            confidence=wording.confidence(self.blocks, len(self.overdispersed)),
        )

    def scan(self, table: WindowTable) -> Scan:
        """Judge each of many consecutive windows, with up to seven windows before it; the same verdicts as `assess`."""
        return self._judge(table, newest=False)

    def _judge(self, table: WindowTable, newest: bool) -> Scan:
        last = WindowTable(*(judged(column, newest) for column in table.__dict__.values()))
        shape = (len(last.rows), len(self._watches))
        p_value, psi = np.ones(shape), np.zeros(shape)
        test, scale = np.zeros(shape, dtype=np.int64), np.ones(shape, dtype=np.int64)
        still, large = np.zeros(shape, dtype=np.bool_), np.ones(shape, dtype=np.bool_)
        phase = table.mean_phase
        for place, watch in enumerate(self._watches):
            p_value[:, place], test[:, place], scale[:, place] = watch.test(table, last, phase, newest)
            psi[:, place] = watch.stability.of(last.counts[:, watch.cells])
            still[:, place] = watch.stuck(last, self.min_rows)
            if watch.dispersion.blocks < FEWEST_BLOCKS:
                # the scatter between windows is not known: only a large change is believed
                large[:, place] = (psi[:, place] >= WARNING) | (test[:, place] >= len(FAMILIES))
        p_value = np.minimum(p_value * len(self._watches), 1.0)
        enough = (last.rows >= self.min_rows)[:, None]
        alarm = (p_value < self.alpha) & large & enough
        still &= enough
        test[still & ~alarm] = TESTS.index("stuck")
        return Scan(alarm | still, p_value, test, scale, still, psi)

    def _report(self, watch: "_Watch", table: WindowTable, scan: Scan) -> FeatureDrift:
        place, name = watch.place, watch.bins.name
        alarm, psi = bool(scan.alarm[-1, place]), float(scan.psi[-1, place])
        test = TESTS[scan.test[-1, place]]
        shares = watch.shares(table.counts[-1, watch.cells])
        excess = max(shares.missing - watch.missing.share, shares.unseen, shares.out_of_range, 0.0)
        severity: Severity = severity_of(psi) if alarm else "none"
        scale = int(scan.scale[-1, place])
        if alarm:
            merged = table.counts[-scale:, watch.cells].sum(axis=0)
            reason = wording.reason(watch.bins, watch.measures, watch.whole, merged, test, scale, severity)
        else:
            reason = f"{name} is as in the reference, as far as can be told"
        return FeatureDrift(
            feature=name,
            severity=severity,
            alarm=alarm,
            p_value=float(scan.p_value[-1, place]),
            test=test,
            scale=scale,
            psi=psi,
            effect=max(float(np.sqrt(max(psi, 0.0))), excess),
            missing_rate=shares.missing,
            reference_missing_rate=watch.missing.share,
            unseen_share=shares.unseen,
            out_of_range_share=shares.out_of_range,
            stuck=bool(scan.stuck[-1, place]),
            importance=self.reference.importance.get(name, 1 / len(self._watches)),
            reason=reason,
        )


@cache
def _layout(rare: int, missing: int, tested: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Family and scale of each p-value of a feature: one of what is rare, then so many scales of the missing and of the others."""
    cells = [LOCATION, SPREAD, SHAPE, SHAPE if rare == _OUT_OF_RANGE else CELLS]
    which = np.array([rare, *[_MISSING] * missing, *cells * tested])
    return which, np.array([1, *SCALES[:missing], *(k for k in SCALES[:tested] for _ in cells)])


@dataclass(frozen=True)
class _Shares:
    missing: float
    unseen: float
    out_of_range: float


class _Watch:
    """All tests of one feature."""

    def __init__(self, bins: FeatureBins, place: int, cells: slice, whole: WindowProfile, blocks: WindowTable) -> None:
        self.bins, self.place, self.cells = bins, place, cells
        self.whole = whole.counts[cells]
        counts, rows, phase = blocks.counts[:, cells], blocks.rows, blocks.mean_phase
        usual = float(np.median(rows)) if len(rows) else float(whole.rows)
        self.measures = Measures(bins, self.whole, usual)
        self.stability = Stability(self.measures, self.whole)
        self.dispersion = Dispersion(self.measures, counts, phase)
        self.missing = MissingRate(counts[:, -1], rows, phase, float(self.whole[-1]), float(whole.rows))
        if bins.kind == "number":
            self._rare: RangeRate | UnseenRate = RangeRate(
                bins.low, bins.high, float(whole.rows), blocks.minimum[:, place], blocks.maximum[:, place]
            )
        else:
            crowded = len(bins.levels) > len(self.whole) - 2
            self._rare = UnseenRate(
                counts[:, : len(self.whole) - 2], rows, float(bins.singletons), float(whole.rows), crowded
            )
        commonest = counts[:, :-1].max(axis=1, initial=0) / np.maximum(counts[:, :-1].sum(axis=1), 1)
        # a block that nearly was is as good as one: half a day has one weekday
        self._may_be_stuck = bool(len(rows)) and not bool((self._single(blocks) | (commonest > NEARLY_STUCK)).any())

    def test(
        self, table: WindowTable, last: WindowTable, phase: Floats, newest: bool
    ) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """Smallest p over families and scales, corrected for both, with the family (a position in `TESTS`) and the scale.

        `last` are the windows that are judged, the newest of `table` or all of it.
        """
        counts, own = table.counts[:, self.cells], last.counts[:, self.cells]
        tested = self.dispersion.test(counts, phase, newest)
        missing = self.missing.test(counts[:, -1], table.rows, phase, newest)
        if isinstance(self._rare, RangeRate):
            outside = own[:, 0] + own[:, -2]
            rare = self._rare.test(outside, last.rows, last.minimum[:, self.place], last.maximum[:, self.place])
            lasting = mostly_outside(counts[:, 0] + counts[:, -2], table.rows)
            rare[lasting[-len(rare) :]] = 0.0
            families, kind = len(FAMILIES) + 2, _OUT_OF_RANGE
        else:
            rare = self._rare.test(own[:, -2], last.rows)
            families, kind = 4, _UNSEEN
        p = np.concatenate([rare[None], missing, tested.transpose(0, 2, 1).reshape(-1, len(rare))])
        best = p.argmin(axis=0)
        which, scale = _layout(kind, len(missing), len(tested))
        corrected = p[best, np.arange(len(rare))] * families * len(self.dispersion.scales)
        return np.minimum(corrected, 1.0), which[best], scale[best]

    def stuck(self, table: WindowTable, min_rows: int) -> NDArray[np.bool_]:
        if not self._may_be_stuck:
            return np.zeros(len(table.rows), dtype=np.bool_)
        single = self._single(table)
        if single.any():
            single &= stuck(table.counts[:, self.cells][:, :-1], self.whole[:-1], min_rows)
        return single

    def shares(self, counts: Counts) -> _Shares:
        rows = max(int(counts.sum()), 1)
        number = self.bins.kind == "number"
        return _Shares(
            float(counts[-1] / rows),
            0.0 if number else float(counts[-2] / rows),
            float((counts[0] + counts[-2]) / rows) if number else 0.0,
        )

    def _single(self, table: WindowTable) -> NDArray[np.bool_]:
        if self.bins.kind == "number":
            return np.asarray(table.minimum[:, self.place] == table.maximum[:, self.place])
        return np.asarray((table.counts[:, self.cells][:, :-1] > 0).sum(axis=1) == 1)
