"""Judging a candidate on the held-out rows: alone, against the trivial model, and against the champion on the same rows."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import pandas as pd
from sklearn.pipeline import Pipeline

from mlops_assets.core.contract import raw_rows
from mlops_assets.core.evaluation import (
    Evaluation,
    Evidence,
    Judged,
    PairedComparison,
    baseline_output,
    compare,
    judge,
    measure,
    point_metrics,
    single_row_latency_ms,
    slice_metrics,
)
from mlops_assets.core.manifest import Manifest
from mlops_assets.core.metrics import Floats
from mlops_assets.core.rollout import champion_before
from mlops_assets.core.scoring.compile import compile_pipeline
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import TrainingRows, encode_label, predict, split_training_rows
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.train import Candidate
from mlops_assets.operations.whole_bundles import whole_bundle

_MIN_UNSEEN_ROWS = 200


@dataclass(frozen=True)
class Judgement:
    """An evaluation together with the rows and outputs it was made from, for pictures."""

    evaluation: Evaluation
    judged: Judged
    rows: pd.DataFrame


def evaluate(
    spec: ModelSpec, stores: Stores, frame: pd.DataFrame, candidate: Candidate, *, attempts: Collection[str] = ()
) -> Judgement:
    """Measure and judge a registered candidate on the rows that were held out of its training.

    Parameters
    ----------
    frame
        The validated rows that the candidate was trained from.
    attempts
        Who decides in this attempt and those before it, see `runs_of`: what they have released already is no champion to be better
        than.
    """
    rows = split_training_rows(spec, frame, candidate.as_of)
    pipeline = stores.registry.load(spec.name, candidate.version)
    features = rows.holdout[list(spec.feature_names)]
    judged = Judged(encode_label(spec, rows.holdout[spec.label.column], candidate.classes), predict(pipeline, features))
    fitted_truth = encode_label(spec, rows.fit[spec.label.column], candidate.classes)
    trivial = baseline_output(spec, fitted_truth, len(candidate.classes), len(judged.truth))
    incomparable: str | None = None
    try:
        comparisons, compared_with = _against_champion(spec, stores, rows, judged, candidate, attempts)
    except _Incomparable as reason:
        comparisons, compared_with = (), str(reason)
        incomparable = compared_with
    evidence = Evidence(
        metrics=measure(spec, judged),
        baseline=point_metrics(spec, Judged(judged.truth, trivial)),
        slices=slice_metrics(spec, rows.holdout, judged),
        comparisons=comparisons,
        latency_ms=_latency_ms(pipeline, candidate, features),
        incomparable=incomparable,
    )
    evaluation = Evaluation(
        model=spec.name,
        version=candidate.version,
        rows=len(judged.truth),
        metrics=evidence.metrics,
        baseline=evidence.baseline,
        slices=evidence.slices,
        comparisons=comparisons,
        compared_with=compared_with,
        latency_ms=evidence.latency_ms,
        gates=judge(spec.gates, evidence),
    )
    return Judgement(evaluation, judged, rows.holdout)


class _Incomparable(Exception):
    """A champion serves, and cannot be held against the candidate; the message says why."""


def _against_champion(
    spec: ModelSpec,
    stores: Stores,
    rows: TrainingRows,
    judged: Judged,
    candidate: Candidate,
    attempts: Collection[str],
) -> tuple[tuple[PairedComparison, ...], str]:
    """Pair candidate and champion on rows that the champion has not been trained on either.

    The champion was refitted up to its own `as_of`, which may reach into the held-out rows. Where enough later rows are left,
    those are used; otherwise its twin of the same training, fitted without its held-out part, stands in for it.
    """
    champion = champion_before(stores.releases.history(spec.name), attempts)
    if champion is None:
        return (), "no champion"
    manifest = whole_bundle(stores, spec.name, champion).manifest
    _require_same_question(spec, manifest, candidate)
    unseen = (rows.holdout[spec.event_time] >= manifest.training_end).to_numpy()
    if unseen.sum() >= _MIN_UNSEEN_ROWS:
        later, truth, output = rows.holdout[unseen], judged.truth[unseen], judged.output[unseen]
        answers = _answers(stores, manifest, manifest.version, later)
        about = f"champion version {manifest.version} on {len(later)} rows that neither has seen"
        return compare(spec, truth, answers, output), about
    twin = _twin_without(stores, manifest, rows)
    answers = _answers(stores, manifest, twin, rows.holdout)
    about = f"version {twin}, the champion's fit without its own held-out rows"
    return compare(spec, judged.truth, answers, judged.output), about


def _require_same_question(spec: ModelSpec, manifest: Manifest, candidate: Candidate) -> None:
    if manifest.classes != candidate.classes:
        raise _Incomparable(f"champion version {manifest.version} answers other classes: {list(manifest.classes)}")
    missing = [feature.name for feature in manifest.features if feature.name not in spec.feature_names]
    if missing:
        raise _Incomparable(
            f"champion version {manifest.version} needs features that are no longer declared: {', '.join(missing)}"
        )


def _twin_without(stores: Stores, manifest: Manifest, rows: TrainingRows) -> int:
    """The version of the champion's training that has not seen the held-out rows."""
    twin = stores.registry.version(manifest.model, manifest.version).tags.get("gated_version")
    if twin is not None:
        trained_until = stores.registry.version(manifest.model, int(twin)).tags["training_end"]
        if datetime.fromisoformat(trained_until) <= rows.split:
            return int(twin)
    raise _Incomparable(
        f"champion version {manifest.version} was trained until {manifest.training_end.isoformat()}, and on the held-out rows "
        f"from {rows.split.isoformat()} on, so that a comparison would flatter it"
    )


def _answers(stores: Stores, manifest: Manifest, version: int, rows: pd.DataFrame) -> Floats:
    return predict(stores.registry.load(manifest.model, version), rows[[feature.name for feature in manifest.features]])


def _latency_ms(pipeline: Pipeline, candidate: Candidate, features: pd.DataFrame) -> float:
    """Median milliseconds for one row with what would be served: the compiled scorer, else the pipeline."""
    sample = features.head(200)
    if candidate.uncompiled is not None:
        singles = [sample.iloc[[position]] for position in range(len(sample))]
        return single_row_latency_ms(
            lambda position: predict(pipeline, singles[position]), len(sample), time.perf_counter, 50
        )
    scorer = compile_pipeline(pipeline, candidate.contract)
    scorer.warm_up()
    raw = [[row] for row in raw_rows(candidate.contract, sample)]
    return single_row_latency_ms(lambda position: scorer.score_rows(raw[position]), len(raw), time.perf_counter)
