"""What a released model is watched against: made from its training rows, kept in its bundle, read by the monitors."""

from dataclasses import dataclass
from datetime import timedelta

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from mlops_assets.core.evaluation import Judged, point_metrics
from mlops_assets.core.manifest import ImputationPlan, Manifest
from mlops_assets.core.metrics import METRICS, Floats
from mlops_assets.core.monitoring.drift import DriftDetector
from mlops_assets.core.monitoring.estimation import CalibrationMap, LossDispersion, fit_calibration
from mlops_assets.core.monitoring.importance import ROWS, permutation_importance
from mlops_assets.core.monitoring.performance import PerformanceReference
from mlops_assets.core.monitoring.profile import Kind
from mlops_assets.core.monitoring.reference import ReferenceProfile
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.scoring.scorer import CompiledScorer
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import TrainingRows, predict
from mlops_assets.operations.cross_fit import answer_out_of_sample
from mlops_assets.operations.loss_model import fit_loss_model
from mlops_assets.stores.bundles import Bundle

FEATURES, SCORES, HELD_OUT = "reference.npz", "scores.npz", "held_out.json"
LOSS_ARRAYS, LOSS_LAYOUT = "loss.npz", "loss.json"


class HeldOut(msgspec.Struct, frozen=True):
    """What is known of a model from rows it was not fitted on: `held_out.json` of a bundle.

    `metrics` are those of the held-out rows. Where these are few days, the rest comes from earlier rows too, answered by fits on
    what came before them. `calibration` turns a classifier's outputs into frequencies, `dispersion` tells how losses scatter around
    a regression's loss model.
    """

    metrics: dict[str, float]
    performance: PerformanceReference
    calibration: CalibrationMap | None
    dispersion: LossDispersion | None


@dataclass(frozen=True)
class Reference:
    """A bundle's reference, ready to test windows against. `scores` is about the model's outputs, `features` about its inputs."""

    manifest: Manifest
    features: DriftDetector
    profile: ReferenceProfile
    scores: DriftDetector
    score_profile: ReferenceProfile
    held_out: HeldOut
    loss_model: CompiledScorer | None

    @classmethod
    def of(cls, spec: ModelSpec, bundle: Bundle) -> "Reference | None":
        """None for a bundle that carries no reference."""
        files = bundle.files
        if HELD_OUT not in files:
            return None
        profile, scores = (ReferenceProfile.from_bytes(files[name]) for name in (FEATURES, SCORES))
        fewest = spec.monitoring.min_rows
        loss_model = CompiledScorer.from_files(files[LOSS_ARRAYS], files[LOSS_LAYOUT]) if LOSS_ARRAYS in files else None
        return cls(
            manifest=bundle.manifest,
            features=DriftDetector(profile, min_rows=fewest),
            profile=profile,
            scores=DriftDetector(scores, min_rows=fewest),
            score_profile=scores,
            held_out=msgspec.json.decode(files[HELD_OUT], type=HeldOut),
            loss_model=loss_model,
        )

    def expected(self, features: pd.DataFrame, output: Floats, calibration: CalibrationMap | None) -> Floats | None:
        """What the rows' own inputs say of their losses, in the form that `sums_of` takes; None where nothing is known."""
        if calibration is not None:
            return calibration.apply(output)
        return None if self.loss_model is None else expected_losses(self.loss_model, features)


def reference_files(
    spec: ModelSpec, gated: Pipeline, plan: ImputationPlan, classes: tuple[str | int, ...], rows: TrainingRows
) -> dict[str, bytes]:
    """The files of a bundle that the monitors read.

    Parameters
    ----------
    gated
        The fit that has not seen `rows.holdout`: its answers there are what honest answers look like.
    plan
        The imputation plan of that fit.
    classes
        Labels in output order; empty for a regression.
    rows
        The training window of the model.
    """
    block = timedelta(hours=1) if spec.monitoring.window == "hour" else timedelta(days=1)
    sample = answer_out_of_sample(spec, rows, gated, classes, block=block)
    answered, truth, output = sample.rows, sample.truth, sample.output
    features = answered[list(spec.feature_names)]
    calibration, dispersion, expected = None, None, None
    files: dict[str, bytes] = {}
    if spec.task == "regression":
        losses = np.abs(truth - output[:, 0])
        loss_model = fit_loss_model(spec, answered, losses, plan)
        if loss_model is not None:
            expected = expected_losses(loss_model, features)
            dispersion = LossDispersion.of(losses, expected)
            files[LOSS_ARRAYS], files[LOSS_LAYOUT] = loss_model.to_files()
    else:
        calibration = fit_calibration(truth, output)
        expected = calibration.apply(output)
    held_out = len(rows.holdout)
    metrics = point_metrics(spec, Judged(truth[-held_out:], output[-held_out:]))
    known = HeldOut(
        metrics={name: one for name, one in metrics.items() if np.isfinite(one)},
        performance=PerformanceReference.of(
            spec.task, truth, output, clusters_of(spec, answered[spec.event_time]).to_numpy(), expected
        ),
        calibration=calibration,
        dispersion=dispersion,
    )
    whole = rows.whole
    profile = ReferenceProfile.of(
        whole,
        kinds_of(spec),
        whole[spec.event_time],
        _blocks(spec, whole, rows),
        _importance(spec, gated, features.tail(held_out), truth[-held_out:]),
    )
    answers = score_frame(output)
    scores = ReferenceProfile.of(
        answers, score_kinds(output.shape[1]), answered[spec.event_time], _blocks(spec, answered, rows)
    )
    return {
        **files,
        FEATURES: profile.to_bytes(),
        SCORES: scores.to_bytes(),
        HELD_OUT: msgspec.json.encode(known, order="deterministic"),
    }


def kinds_of(spec: ModelSpec) -> dict[str, Kind]:
    """How each feature is binned."""
    return {feature.name: "category" if feature.is_category else "number" for feature in spec.features}


def clusters_of(spec: ModelSpec, times: "pd.Series[pd.Timestamp]") -> "pd.Series[str]":
    """The groups in which rows share their luck: days, or hours where the windows are hours."""
    windows = Windows.of(spec)
    return Windows("hour" if windows.size == "hour" else "day", windows.timezone, windows.start).keys(times)


def score_frame(output: Floats) -> pd.DataFrame:
    """A model's outputs, shape (n, K) or (n, 1), as columns to be profiled; of two classes the positive one alone."""
    columns = output[:, 1:] if output.shape[1] == 2 else output
    return pd.DataFrame(columns, columns=[f"output_{at}" for at in range(columns.shape[1])])


def score_kinds(outputs: int) -> dict[str, Kind]:
    """The kinds of `score_frame`'s columns."""
    return {f"output_{at}": "number" for at in range(1 if outputs == 2 else outputs)}


def expected_losses(loss_model: CompiledScorer, features: pd.DataFrame) -> Floats:
    """What a loss model expects of rows, shape (n,), never below 0."""
    columns = {name: features[name].to_numpy() for name in loss_model.features}
    losses: Floats = np.maximum(loss_model.score_columns(columns)[:, 0], 0.0)
    return losses


def _blocks(spec: ModelSpec, frame: pd.DataFrame, rows: TrainingRows) -> NDArray[np.object_]:
    """The window of each row, None for windows that the training window cuts off."""
    windows = Windows.of(spec)
    keys = windows.keys(frame[spec.event_time])
    begin, end = frame[spec.event_time].min().to_pydatetime(), rows.end
    slack = timedelta(hours=6) if windows.size != "hour" else timedelta(0)  # nights without traffic cut nothing off
    whole = {
        key: windows.bounds(key)[0] >= begin - slack and windows.bounds(key)[1] <= end + slack for key in keys.unique()
    }
    return keys.where(keys.map(whole).astype(bool), None).to_numpy(dtype=object)


def _importance(spec: ModelSpec, gated: Pipeline, features: pd.DataFrame, truth: Floats) -> dict[str, float]:
    random = np.random.default_rng(spec.training.seed)
    picked = np.sort(random.choice(len(features), min(ROWS, len(features)), replace=False))
    metric = METRICS[spec.headline_loss]
    return permutation_importance(
        lambda rows: predict(gated, rows),
        lambda output: metric.score(truth[picked], output, spec.evaluation.decision_threshold),
        features.iloc[picked],
        spec.training.seed,
    )
