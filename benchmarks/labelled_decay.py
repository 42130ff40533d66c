"""False alarms and delay in finding flipped labels: the performance test against NannyML's realised AUC and river's ADWIN.

Windows are drawn at random from rows that no model was fitted on (census 2015, flights of 2013), so that nothing decays by itself.
Each stream has clean windows first, then 20 in which a share of the labels is flipped; the delay is the number of the first
flipped window with an alarm, 21 where there is none. False alarms are the share of clean windows with an alarm.

Run: ``make bench-labelled-decay``
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import SEED, save, table
from benchmarks.scored import Answers, Split, at_random
from mlops_assets.core.monitoring.estimation import fit_calibration
from mlops_assets.core.monitoring.performance import PerformanceReference, assess_performance, sums_of

SIZES = (500, 1_000, 5_000)
FLIPS = (0.02, 0.05, 0.10)
CLUSTER = 500  # rows that our test takes to vary together, in windows of any size; a day, say, of a real stream
CLEAN, FLIPPED = 16, 20
NEVER = FLIPPED + 1
# streams of each kind: ours judges a window in about a millisecond, the peers take their time
STREAMS = {"": 40, "nannyml_": 6, "adwin_": 6}

Alarms = NDArray[np.bool_]
Watch = Callable[[list[Answers]], Alarms]


def main() -> None:
    """Print the table and write the figures."""
    figures: dict[str, float | int | None] = {}
    rows = []
    for data in ("census", "flights"):
        split = at_random(data)
        for size in SIZES:
            found = _cell(split, size)
            figures.update({f"{key}_{data}_{size}": value for key, value in found.items()})
            for peer in STREAMS:
                delays = [found[f"{peer}delay_flip{flip:.0%}".rstrip("%")] for flip in FLIPS]
                alarms = found[f"{peer}false_alarm_pct"], found[f"{peer}false_alarm_upper_pct"]
                rows.append((f"{data} {size:,} {peer.rstrip('_') or 'ours'}", *alarms, *delays))
    columns = ("data, rows a window, whose", "false alarms, %", "at most, %", *(f"delay, {flip:.0%}" for flip in FLIPS))
    table("Flipped labels: false alarms (95 % upper limit) and mean delay in windows (21 = never)", columns, rows)
    save("labelled_decay", figures)


def _cell(split: Split, size: int) -> dict[str, float]:
    watches = {"": _ours(split, size), "nannyml_": _nannyml(split, size), "adwin_": _adwin(split)}
    found: dict[str, float] = {}
    for peer, watch in watches.items():
        random = np.random.default_rng(SEED)  # the same streams for everybody, as far as each goes
        alarms: list[Alarms] = []
        for flip in FLIPS:
            delays = []
            for _ in range(STREAMS[peer]):
                raised = watch(_stream(split.watched, size, flip, random))
                alarms.append(raised[:CLEAN])
                late = np.flatnonzero(raised[CLEAN:])
                delays.append(late[0] + 1 if len(late) else NEVER)
            found[f"{peer}delay_flip{flip:.0%}".rstrip("%")] = float(np.mean(delays))
        raised = np.concatenate(alarms)
        found[f"{peer}false_alarm_pct"] = float(100 * raised.mean())
        found[f"{peer}false_alarm_upper_pct"] = _upper_limit(int(raised.sum()), len(raised))
    return found


def _stream(pool: Answers, size: int, flip: float, random: np.random.Generator) -> list[Answers]:
    rows = pool.at(random.integers(0, len(pool.truth), size * (CLEAN + FLIPPED)))
    flipped = random.random(len(rows.truth)) < flip
    flipped[: CLEAN * size] = False
    rows = rows._replace(truth=np.where(flipped, 1 - rows.truth, rows.truth))
    return [rows.at(slice(at, at + size)) for at in range(0, len(rows.truth), size)]


def _upper_limit(alarms: int, windows: int) -> float:
    """One-sided 95 % limit of a share (Clopper and Pearson 1934), in percent."""
    from scipy.stats import beta

    return float(100 * beta.ppf(0.95, alarms + 1, max(windows - alarms, 1)))


def _ours(split: Split, size: int) -> Watch:
    known = split.reference
    calibration = fit_calibration(known.truth, known.output)
    blocks = np.arange(len(known.truth)) // CLUSTER
    complete = blocks < len(known.truth) // CLUSTER
    reference = PerformanceReference.of(
        "binary",
        known.truth[complete],
        known.output[complete],
        blocks[complete],
        calibration.apply(known.output[complete]),
    )

    clusters = np.arange(size) // CLUSTER

    def watch(windows: list[Answers]) -> Alarms:
        sums = [sums_of("binary", one.truth, one.output, calibration.apply(one.output), clusters) for one in windows]
        reports = (assess_performance(reference, sums[max(0, at - 7) : at + 1]) for at in range(len(sums)))
        return np.array([report.alarm for report in reports])

    return watch


def _nannyml(split: Split, size: int) -> Watch:
    import nannyml

    calculator = nannyml.PerformanceCalculator(
        y_pred_proba="p",
        y_pred="decided",
        y_true="truth",
        metrics=["roc_auc"],
        chunk_size=size,
        problem_type="classification_binary",
    ).fit(split.reference.frame)

    def watch(windows: list[Answers]) -> Alarms:
        whole = Answers(*(np.concatenate(parts) for parts in zip(*windows, strict=True)))
        found = calculator.calculate(whole.frame).filter(period="analysis").to_df()
        return found["roc_auc", "alert"].to_numpy(bool)

    return watch


def _adwin(split: Split) -> Watch:
    """ADWIN over the errors of the decisions, row by row, default settings, after a part of the reference to settle on."""
    from river.drift import ADWIN

    errors = ((split.reference.probability >= 0.5) != (split.reference.truth == 1)).astype(float)[:10_000]

    def watch(windows: list[Answers]) -> Alarms:
        detector = ADWIN()
        for error in errors:
            detector.update(error)
        alarms = np.zeros(len(windows), dtype=bool)
        for place, window in enumerate(windows):
            for error in (window.probability >= 0.5) != (window.truth == 1):
                detector.update(float(error))
                alarms[place] |= detector.drift_detected
        return alarms

    return watch


if __name__ == "__main__":
    main()
