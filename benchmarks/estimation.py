"""AUC estimated without labels against the AUC that came true, and the time it takes: ours against NannyML's CBPE.

Census (2015 → 2016–2018) and flights (March → April–December) in time order, in chunks of 1,000 and 5,000 rows; both estimate
from the same answers of the same model and calibrate on the same reference. "rolling" calibrates anew before each chunk on
the last 20,000 rows whose labels have arrived, here 5,000 rows late.

Run: ``make bench-estimation``
"""

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.common import save, table, timed
from benchmarks.scored import Answers, Floats, Split, at_random, in_time_order
from mlops_assets.core.monitoring.estimation import (
    REFIT_ROWS,
    CalibrationMap,
    Estimate,
    estimate_performance,
    fit_calibration,
    refit_calibration,
)

SIZES = (1_000, 5_000)
LABELS_LATE = 5_000
REPEATS = 3


def main() -> None:
    """Print the table and write the figures."""
    figures: dict[str, float | int | None] = {}
    rows: list[tuple[object, ...]] = []
    for data, split in (
        ("census", in_time_order("census")),
        ("flights", in_time_order("flights")),
        ("flights_iid", at_random("flights")),
    ):
        for size in SIZES:
            found = _compare(split, size)
            figures.update({f"{name}_{data}_{size}": value for name, value in found.items()})
            rows.append((f"{data} {size:,}", *found.values()))
    table(
        "Mean absolute error of the estimated AUC, per chunk, and seconds",
        (
            "data, rows a chunk",
            *("ours", "NannyML", "ours, rolling", "constant", "within 2 s.e., %"),
            *("s", "NannyML s", "ratio with fit", "ratio"),
        ),
        rows,
    )
    save("estimation", figures)


def _compare(split: Split, size: int) -> dict[str, float]:
    chunks = [split.watched.at(slice(at, at + size)) for at in range(0, len(split.watched.truth) - size + 1, size)]
    realised = np.array([roc_auc_score(chunk.truth, chunk.probability) for chunk in chunks])
    estimated, errors = _ours(split.reference, chunks)
    theirs, their_seconds, their_fit = _nannyml(split, size, len(chunks))
    calibration = fit_calibration(split.reference.truth, split.reference.output)
    seconds = timed(lambda: [_estimate(chunk, calibration) for chunk in chunks], REPEATS).minimum
    fit = timed(lambda: fit_calibration(split.reference.truth, split.reference.output), REPEATS).minimum
    reference = roc_auc_score(split.reference.truth, split.reference.probability)
    return {
        "auc_mae": _mae(estimated, realised),
        "nannyml_auc_mae": _mae(theirs, realised),
        "rolling_auc_mae": _mae(_rolling(split, chunks), realised),
        "constant_auc_mae": _mae(np.full(len(realised), reference), realised),
        "coverage_2se_pct": float(100 * (np.abs(estimated - realised) <= 2 * errors).mean()),
        "seconds": seconds,
        "nannyml_seconds": their_seconds,
        "speed_ratio": (their_seconds + their_fit) / (seconds + fit),
        "speed_ratio_without_fit": their_seconds / seconds,
    }


def _estimate(chunk: Answers, calibration: CalibrationMap) -> Estimate:
    """The area alone, as NannyML is asked for."""
    return estimate_performance(chunk.output, calibration.apply(chunk.output), metrics=("roc_auc",))["roc_auc"]


def _mae(estimated: Floats, realised: Floats) -> float:
    return float(np.abs(estimated - realised).mean())


def _ours(reference: Answers, chunks: list[Answers]) -> tuple[Floats, Floats]:
    calibration = fit_calibration(reference.truth, reference.output)
    areas = [_estimate(chunk, calibration) for chunk in chunks]
    return np.array([area.value for area in areas]), np.array([area.standard_error for area in areas])


def _rolling(split: Split, chunks: list[Answers]) -> Floats:
    """Estimates with the map refitted on labels that have arrived; the reference is what came before the first chunk."""
    truth = np.concatenate([split.reference.truth, split.watched.truth])
    probability = np.concatenate([split.reference.probability, split.watched.probability])
    size = len(chunks[0].truth)
    estimates = []
    for place, chunk in enumerate(chunks):
        known = len(split.reference.truth) + place * size - LABELS_LATE
        last = Answers(probability, truth).at(slice(max(0, known - REFIT_ROWS), known))
        calibration = refit_calibration(last.truth, last.output)
        assert calibration is not None
        estimates.append(_estimate(chunk, calibration).value)
    return np.array(estimates)


def _nannyml(split: Split, size: int, chunks: int) -> tuple[Floats, float, float]:
    """Estimates of all chunks, seconds to make them, and seconds to fit."""
    import nannyml

    def fitted() -> nannyml.CBPE:
        return nannyml.CBPE(
            y_pred_proba="p",
            y_pred="decided",
            y_true="truth",
            metrics=["roc_auc"],
            chunk_size=size,
            problem_type="classification_binary",
        ).fit(reference)

    reference, watched = split.reference.frame, split.watched.at(slice(0, chunks * size)).frame.drop(columns="truth")
    fit = timed(fitted, 1).minimum
    estimator = fitted()
    seconds = timed(lambda: estimator.estimate(watched), REPEATS).minimum
    table = estimator.estimate(watched).filter(period="analysis").to_df()
    return table["roc_auc", "value"].to_numpy(np.float64), seconds, fit


if __name__ == "__main__":
    main()
