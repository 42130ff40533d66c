"""Putting a judged candidate into service: refit, bundle, Bento, release plan, and the proof that it answers.

Each step can be repeated; a stop between any two of them leaves the old release in service, and the next run finishes the work.
"""

import hashlib
import math
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import numpy as np
import pandas as pd
import uuid_utils

from mlops_assets.core.carrying import halted
from mlops_assets.core.contract import raw_rows
from mlops_assets.core.evaluation import Evaluation
from mlops_assets.core.imputation import make_plan
from mlops_assets.core.manifest import Manifest
from mlops_assets.core.metrics import METRICS
from mlops_assets.core.rollout import Entrant, Origin, Release, ReleasePlan, dismissed, promotion, trial
from mlops_assets.core.scoring.scorer import GoldenRows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import TrainingRows, encode_label, predict, split_training_rows
from mlops_assets.operations.bento import build_bento
from mlops_assets.operations.confirm import DoesNotAnswer, confirm, move_champion, take_back
from mlops_assets.operations.provenance import libraries
from mlops_assets.operations.reference import reference_files
from mlops_assets.operations.smoke import SmokeTest
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.train import Candidate, Fitted, fit
from mlops_assets.operations.whole_bundles import whole_bundle
from mlops_assets.stores.releases import ReleaseConflict

GOLDEN_ROWS = 50
SANITY_TOLERANCE = 0.05


class ReleaseRefused(RuntimeError):
    """The candidate may not be released; the champion stays. The message says why."""


@dataclass(frozen=True)
class Released:
    """What a deployment did: the plan now in force, whether it is a new one, and whether it only tries the version so far."""

    plan: ReleasePlan
    manifest: Manifest
    is_new: bool
    bento: str
    workers: int
    smoke: SmokeTest
    on_trial: bool = False


def require_verdict(candidate: Candidate, evaluation: Evaluation) -> None:
    """Refuse a candidate that was not judged, or did not pass.

    Raises
    ------
    ReleaseRefused
        With the gates that failed.
    """
    if evaluation.version != candidate.version:
        raise ReleaseRefused(
            f"model {candidate.model!r}: the evaluation judges version {evaluation.version}, the candidate is version "
            f"{candidate.version}; materialise the evaluation of this candidate"
        )
    failed = [f"{gate.gate} (value {gate.value}, limit {gate.limit})" for gate in evaluation.gates if not gate.passed]
    if failed:
        raise ReleaseRefused(
            f"model {candidate.model!r} version {candidate.version} failed its gates: {'; '.join(failed)}"
        )


def require_leave(spec: ModelSpec, stores: Stores, decision: str) -> None:
    """Refuse to release what was decided by itself, when automation has been halted since.

    Parameters
    ----------
    decision
        Id of the decision that asked for the training; empty for a run that a person started in the UI.

    Raises
    ------
    ReleaseRefused
        When the model is frozen or retired. The candidate stays registered.
    """
    record = stores.ledger.of(spec.name)
    one = next((known for known in record.decisions if known.id == decision), None)
    if one is not None and (why := halted(record, one)) is not None:
        raise ReleaseRefused(f"model {spec.name!r}: {why}; the candidate is registered, and not released")


def final_fit(
    spec: ModelSpec, stores: Stores, frame: pd.DataFrame, candidate: Candidate
) -> tuple[Fitted, TrainingRows]:
    """The model to be served: fitted again on the whole window, or as it was judged where the declaration says no refit.

    Raises
    ------
    ReleaseRefused
        When the refit gives non-finite answers or is clearly worse than the judged fit on rows it has now been trained on.
    """
    rows = split_training_rows(spec, frame, candidate.as_of)
    if not spec.training.refit:
        return fit(spec, rows.fit, candidate.plan, candidate.classes, rows.holdout), rows
    fitted = fit(spec, rows.whole, make_plan(spec, rows.whole), candidate.classes, rows.holdout)
    _require_sane(spec, stores, rows, candidate, fitted)
    return fitted, rows


def _require_sane(spec: ModelSpec, stores: Stores, rows: TrainingRows, candidate: Candidate, fitted: Fitted) -> None:
    features = rows.holdout[list(spec.feature_names)]
    output = predict(fitted.pipeline, features)
    if not np.isfinite(output).all():
        raise ReleaseRefused(
            f"model {spec.name!r}: {np.count_nonzero(~np.isfinite(output))} answers of the refit are no numbers"
        )
    truth = encode_label(spec, rows.holdout[spec.label.column], candidate.classes)
    metric = METRICS["mae" if spec.task == "regression" else "log_loss"]
    threshold = spec.evaluation.decision_threshold
    judged = metric.score(truth, predict(stores.registry.load(spec.name, candidate.version), features), threshold)
    refitted = metric.score(truth, output, threshold)
    if refitted > judged * (1 + SANITY_TOLERANCE):
        raise ReleaseRefused(
            f"model {spec.name!r}: the refit's {metric.name} on the held-out rows is {refitted:.5g}, worse than the {judged:.5g} "
            "of the fit that had not seen them; look for labels that contradict each other at the end of the window"
        )


def deploy(
    spec: ModelSpec,
    stores: Stores,
    candidate: Candidate,
    evaluation: Evaluation,
    final: tuple[Fitted, TrainingRows],
    decided_by: str,
) -> Released:
    """Release what `final_fit` made of a candidate that passed, unless the champion already is that very model.

    By any strategy but "immediate" it is put on trial beside the champion, and takes the place of another that is on trial; the
    rollout promotes it (`operations/rollouts.py`). Where no champion answers, it is released at once by any strategy.

    The Bento is built before anything moves. When a worker of a running service refuses the new release, or the smoke test
    fails, the former champion is put back at once, and the new version is withdrawn.

    Raises
    ------
    ReleaseRefused
        When the candidate did not pass, or what was released does not answer as it should.
    """
    require_verdict(candidate, evaluation)
    plan, is_new = plan_release(spec, stores, candidate, evaluation, final, decided_by, at_once=False)
    bento = build_bento(stores.home, instead=plan)
    if is_new:
        _publish(stores, plan)
    try:
        workers, smoke = confirm(spec, stores, plan)
    except DoesNotAnswer as failure:
        done = "it was in service before, and stays"
        if is_new:
            done = take_back(stores, plan, str(failure), decided_by, datetime.now(UTC), withdraw=True)
        raise ReleaseRefused(
            f"model {spec.name!r} release {plan.release} does not answer as it should: {failure}; {done}"
        ) from failure
    move_champion(stores, plan)
    entered = plan.challenger or plan.champion
    manifest = stores.bundles.get(entered.bundle).manifest
    return Released(plan, manifest, is_new, bento, workers, smoke, on_trial=plan.challenger is not None)


def plan_release(
    spec: ModelSpec,
    stores: Stores,
    candidate: Candidate,
    evaluation: Evaluation,
    final: tuple[Fitted, TrainingRows],
    decided_by: str,
    *,
    watched: bool = True,
    at_once: bool = True,
) -> tuple[ReleasePlan, bool]:
    """The plan that would put the final fit into service, and whether it is a new one; nothing moves yet.

    The final fit is registered and its bundle stored, unless the champion already is that very model.

    Parameters
    ----------
    watched
        Whether the bundle carries the reference that the monitors need: it takes as long to make as the fits.
    at_once
        It takes over with that plan, whatever strategy is declared.
    """
    fitted, rows = final
    current = stores.releases.current(spec.name)
    champion = None if current is None else whole_bundle(stores, spec.name, current.champion).manifest
    files = _bundle_files(spec, fitted, rows)
    answers = current is not None and not current.fallen_back and current.retired is None
    if current is not None and answers and champion is not None and _same_answers(champion, files, fitted):
        return current, False
    tried = None if current is None or at_once else current.challenger
    same = tried is not None and tried.bundle in stores.bundles
    if current is not None and tried is not None and same:
        same = _same_answers(stores.bundles.get(tried.bundle).manifest, files, fitted)
    if current is not None and same:
        return current, False
    if watched:
        gated = stores.registry.load(spec.name, candidate.version)
        files |= reference_files(spec, gated, candidate.plan, candidate.classes, rows)
    return _new_plan(spec, stores, candidate, evaluation, final, files, decided_by, at_once=at_once), True


def _new_plan(
    spec: ModelSpec,
    stores: Stores,
    candidate: Candidate,
    evaluation: Evaluation,
    final: tuple[Fitted, TrainingRows],
    files: dict[str, bytes],
    decided_by: str,
    *,
    at_once: bool,
) -> ReleasePlan:
    """Register the final fit, store its bundle, and plan its release; nothing moves yet."""
    fitted, rows = final
    version = _registered_version(spec, stores, candidate, fitted)
    manifest = _manifest(spec, candidate, evaluation, fitted, rows, version)
    bundle = stores.bundles.put(manifest, files)
    _log_bundle(stores, candidate, bundle)
    stores.registry.tag(spec.name, version, "bundle", bundle)
    features = tuple(feature.name for feature in manifest.features)
    reason = f"passed {len(evaluation.gates)} gates; {evaluation.compared_with}"
    entrant = Entrant(Release(version, bundle), features, manifest.fallback_value, candidate.as_of)
    origin = Origin(f"r-{uuid_utils.uuid7()}", reason, decided_by, datetime.now(UTC))
    current, salt, limits = stores.releases.current(spec.name), secrets.token_hex(8), spec.release.breaker.limits
    if current is not None and not at_once and _is_tried(spec, current):
        return _on_trial(spec, current, entrant, origin, salt)
    return promotion(current, entrant, origin, model=spec.name, salt=salt, breaker=limits)


def _is_tried(spec: ModelSpec, current: ReleasePlan) -> bool:
    """A version can only be tried beside a champion that answers."""
    return spec.release.strategy != "immediate" and not current.fallen_back and current.retired is None


def _on_trial(spec: ModelSpec, current: ReleasePlan, entrant: Entrant, origin: Origin, salt: str) -> ReleasePlan:
    """The one plan that puts a version on trial, in the place of another that is."""
    before = current
    if current.challenger is not None:
        gone = dismissed(current, origin, withdraw=False)
        before = msgspec.structs.replace(gone, release=current.release)
    in_shadow = spec.release.strategy != "canary"
    share = spec.release.shadow.share if in_shadow else spec.release.canary.shares[0]
    plan = trial(before, entrant, "shadow" if in_shadow else "canary", share, origin, salt)
    return msgspec.structs.replace(plan, breaker=spec.release.breaker.limits or plan.breaker)


def _publish(stores: Stores, plan: ReleasePlan) -> None:
    try:
        stores.releases.publish(plan)
    except ReleaseConflict as conflict:
        raise ReleaseRefused(
            f"model {plan.model!r}: another release was published while this one was made ({conflict}); run it again"
        ) from conflict


def _registered_version(spec: ModelSpec, stores: Stores, candidate: Candidate, fitted: Fitted) -> int:
    if not spec.training.refit:
        return candidate.version
    as_of = candidate.as_of.isoformat()
    tags = {"fit": "refit", "gated_version": str(candidate.version), "as_of": as_of, "training_end": as_of}
    return stores.registry.register(spec.name, candidate.mlflow_run, "refit", fitted.pipeline, fitted.trusted, tags)


def _bundle_files(spec: ModelSpec, fitted: Fitted, rows: TrainingRows) -> dict[str, bytes]:
    newest = rows.whole.tail(GOLDEN_ROWS)
    raw = raw_rows(fitted.contract, newest)
    if fitted.scorer is not None:
        npz, layout = fitted.scorer.to_files()
        return {"scorer.npz": npz, "scorer.json": layout, "golden.json": GoldenRows.make(fitted.scorer, raw).to_json()}
    golden = GoldenRows.of(raw, predict(fitted.pipeline, newest[list(spec.feature_names)]))
    return {"pipeline.skops": fitted.skops, "golden.json": golden.to_json()}


def _same_answers(champion: Manifest, files: dict[str, bytes], fitted: Fitted) -> bool:
    """Is the champion the same scorer under the same contract? Then a new release would change nothing."""
    if champion.features != fitted.contract or champion.imputation != fitted.plan:
        return False
    names = ("golden.json",) if fitted.scorer is None else ("scorer.npz", "scorer.json", "golden.json")
    return all(champion.files.get(name) == f"sha256:{hashlib.sha256(files[name]).hexdigest()}" for name in names)


def _manifest(
    spec: ModelSpec, candidate: Candidate, evaluation: Evaluation, fitted: Fitted, rows: TrainingRows, version: int
) -> Manifest:
    trained = rows.whole if spec.training.refit else rows.fit
    return Manifest(
        model=spec.name,
        version=version,
        task=spec.task,
        features=fitted.contract,
        label=spec.label.column,
        classes=fitted.classes,
        threshold=spec.evaluation.decision_threshold,
        imputation=fitted.plan,
        entity_key=spec.entity_key,
        event_time=spec.event_time,
        as_of=candidate.as_of,
        training_start=rows.start,
        training_end=rows.end if spec.training.refit else rows.split,
        training_rows=len(trained),
        data_hash=candidate.data_hash,
        code_version=candidate.code_version,
        libraries=libraries(),
        metrics={name: one.value for name, one in evaluation.metrics.items() if math.isfinite(one.value)},
        mlflow_run=candidate.mlflow_run,
        dagster_run=candidate.dagster_run,
        fallback_value=_fallback_value(spec, fitted, trained),
        uncompiled=fitted.uncompiled,
        trusted_types=fitted.trusted,
        files={},
    )


def _fallback_value(spec: ModelSpec, fitted: Fitted, trained: pd.DataFrame) -> float | str | int | None:
    """What to answer when no model can: the base rate, the most frequent class, the median."""
    truth = encode_label(spec, trained[spec.label.column], fitted.classes)
    if spec.task == "regression":
        return float(np.median(truth))
    if spec.task == "binary":
        return float(truth.mean())
    return fitted.classes[int(np.bincount(truth.astype(np.int64)).argmax())]


def _log_bundle(stores: Stores, candidate: Candidate, bundle: str) -> None:
    stores.registry.log_folder(
        candidate.mlflow_run, stores.bundles.path(bundle), f"bundles/{bundle.removeprefix('sha256:')}"
    )
