"""Putting a judged candidate into service: refit, bundle, Bento, release plan, and the proof that it answers.

Each step can be repeated; a stop between any two of them leaves the old release in service, and the next run finishes the work.
"""

import hashlib
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
from mlops_assets.core.explaining import BACKGROUND, BACKGROUND_ROWS, Background
from mlops_assets.core.imputation import make_plan
from mlops_assets.core.manifest import Manifest
from mlops_assets.core.metrics import METRICS
from mlops_assets.core.rollout import Entrant, Origin, Release, ReleasePlan, dismissed, promotion, trial
from mlops_assets.core.scoring.scorer import GoldenRows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import TrainingRows, encode_label, predict, split_training_rows
from mlops_assets.operations.attempts import runs_of
from mlops_assets.operations.bento import build_bento
from mlops_assets.operations.confirm import DoesNotAnswer, NotEverywhere, confirm, move_champion, take_back
from mlops_assets.operations.manifests import manifest_of
from mlops_assets.operations.plan_changes import TRIES, ChangeFailed
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
    *,
    decision: str = "",
) -> Released:
    """Release what `final_fit` made of a candidate that passed, unless the champion already is that very model.

    By any strategy but "immediate" it is put on trial beside the champion, and takes the place of another that is on trial; the
    rollout promotes it (`operations/rollouts/advance.py`). Where no champion answers, it is released at once by any strategy.

    The Bento is built before anything moves. Where another plan is published meanwhile, such as a rollback or a step of a trial,
    this one is made once more to follow it. When a worker of a running service refuses the new release, or the smoke test fails,
    the former champion is put back at once, and the new version is withdrawn.

    Parameters
    ----------
    decision
        Id of the decision that asked for the training; empty for a run that a person started in the UI.

    Raises
    ------
    ReleaseRefused
        When the candidate did not pass, or what was released does not answer as it should; when automation was halted, or the
        model retired, while it was being released.
    ChangeFailed
        When the release is in force and not everywhere yet, or others have got ahead of it again and again: nothing is known
        against the candidate, and to run it again is worth while.
    """
    require_verdict(candidate, evaluation)
    plan, is_new, bento = _publish(spec, stores, candidate, evaluation, final, decided_by, decision)
    what = f"model {spec.name!r} release {plan.release}"
    try:
        workers, smoke = confirm(spec, stores, plan)
    except NotEverywhere as failure:
        raise ChangeFailed(f"{what}: {failure}; it stays in force, run it again to wait for them") from failure
    except DoesNotAnswer as failure:
        if not (is_new or plan.decided_by in runs_of(stores, spec.name, decided_by, decision)):
            done = "it was in service before, and stays"
        elif stores.releases.current(spec.name) != plan:
            raise ChangeFailed(
                f"{what}: another one followed before it was proven ({failure}); run it again"
            ) from failure
        else:
            done = take_back(stores, plan, str(failure), decided_by, datetime.now(UTC), withdraw=True)
        raise ReleaseRefused(f"{what} does not answer as it should: {failure}; {done}") from failure
    move_champion(stores, stores.releases.current(spec.name) or plan)
    entered = plan.challenger or plan.champion
    manifest = stores.bundles.get(entered.bundle).manifest
    return Released(plan, manifest, is_new, bento, workers, smoke, on_trial=plan.challenger is not None)


def _publish(
    spec: ModelSpec,
    stores: Stores,
    candidate: Candidate,
    evaluation: Evaluation,
    final: tuple[Fitted, TrainingRows],
    decided_by: str,
    decision: str,
) -> tuple[ReleasePlan, bool, str]:
    """The plan in force with what `final_fit` made, whether it is a new one, and the Bento that carries it."""
    files, entrant = _bundle_files(spec, *final), None
    before = current = stores.releases.current(spec.name)
    for _ in range(TRIES):
        if current is not None and _plays_a_part(spec, stores, current, files, final[0], at_once=False):
            return current, False, build_bento(stores.home, instead=current)
        entrant = entrant or _enter(spec, stores, candidate, evaluation, final, files, watched=True)
        plan = _following(spec, current, entrant, _origin(evaluation, decided_by), at_once=False)
        bento = build_bento(stores.home, instead=plan)
        # Automation may have been halted while all this was made, which publishes no plan.
        require_leave(spec, stores, decision)
        try:
            stores.releases.publish(plan)
        except ReleaseConflict as conflict:
            lost = conflict
            current = stores.releases.current(spec.name)
            _require_not_retired(before, current)
            continue
        return plan, True, bento
    raise ChangeFailed(f"model {spec.name!r}: another plan is being published all the time ({lost}); run it again")


def _require_not_retired(before: ReleasePlan | None, current: ReleasePlan | None) -> None:
    """A release brings a retired model back, unless it was retired after the release had begun."""
    was_gone = before is not None and before.retired is not None
    if current is not None and current.retired is not None and not was_gone:
        raise ReleaseRefused(
            f"model {current.model!r} was taken out of service meanwhile ({current.retired}); the candidate is registered, and not "
            "released"
        )


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
    current, files = stores.releases.current(spec.name), _bundle_files(spec, *final)
    if current is not None and _plays_a_part(spec, stores, current, files, final[0], at_once=at_once):
        return current, False
    entrant = _enter(spec, stores, candidate, evaluation, final, files, watched=watched)
    return _following(spec, current, entrant, _origin(evaluation, decided_by), at_once=at_once), True


def _plays_a_part(
    spec: ModelSpec, stores: Stores, current: ReleasePlan, files: dict[str, bytes], fitted: Fitted, *, at_once: bool
) -> bool:
    """Is the final fit the very model that answers, or that is tried where trying is all that is wanted?"""
    champion = whole_bundle(stores, spec.name, current.champion).manifest
    if not current.fallen_back and current.retired is None and _same_answers(champion, files, fitted):
        return True
    tried = None if at_once else current.challenger
    if tried is None or tried.bundle not in stores.bundles:
        return False
    return _same_answers(stores.bundles.get(tried.bundle).manifest, files, fitted)


def _enter(
    spec: ModelSpec,
    stores: Stores,
    candidate: Candidate,
    evaluation: Evaluation,
    final: tuple[Fitted, TrainingRows],
    files: dict[str, bytes],
    *,
    watched: bool,
) -> Entrant:
    """Register the final fit and store its bundle; nothing moves yet."""
    fitted, rows = final
    if watched:
        gated = stores.registry.load(spec.name, candidate.version)
        files = files | reference_files(spec, gated, candidate.plan, candidate.classes, rows)
    version = _registered_version(spec, stores, candidate, fitted)
    manifest = manifest_of(spec, candidate, evaluation, final, version)
    bundle = stores.bundles.put(manifest, files)
    _log_bundle(stores, candidate, bundle)
    stores.registry.tag(spec.name, version, "bundle", bundle)
    features = tuple(feature.name for feature in manifest.features)
    return Entrant(Release(version, bundle), features, manifest.fallback_value, candidate.as_of)


def _origin(evaluation: Evaluation, decided_by: str) -> Origin:
    reason = f"passed {len(evaluation.gates)} gates; {evaluation.compared_with}"
    return Origin(f"r-{uuid_utils.uuid7()}", reason, decided_by, datetime.now(UTC))


def _following(
    spec: ModelSpec, current: ReleasePlan | None, entrant: Entrant, origin: Origin, *, at_once: bool
) -> ReleasePlan:
    """The plan that follows the current one with the entrant in service, or on trial where that is declared."""
    salt = secrets.token_hex(8)
    try:
        if current is not None and not at_once and _is_tried(spec, current):
            return _on_trial(spec, current, entrant, origin, salt)
        return promotion(current, entrant, origin, model=spec.name, salt=salt, breaker=spec.release.breaker.limits)
    except ValueError as error:
        raise ReleaseRefused(f"{error}") from error


def _is_tried(spec: ModelSpec, current: ReleasePlan) -> bool:
    """A version can only be tried beside a champion that answers."""
    return spec.release.strategy != "immediate" and not current.fallen_back and current.retired is None


def _on_trial(spec: ModelSpec, current: ReleasePlan, entrant: Entrant, origin: Origin, salt: str) -> ReleasePlan:
    """The one plan that puts a version on trial, in the place of another that is."""
    before, former = current, current.challenger
    if former is not None:
        why = f"{origin.reason}; in the place of version {former.version}, which was on trial"
        origin = msgspec.structs.replace(origin, reason=why)
        gone = dismissed(current, origin, withdraw=False)
        before = msgspec.structs.replace(gone, release=current.release)
    in_shadow = spec.release.strategy != "canary"
    share = spec.release.shadow.share if in_shadow else spec.release.canary.shares[0]
    plan = trial(before, entrant, "shadow" if in_shadow else "canary", share, origin, salt)
    return msgspec.structs.replace(plan, breaker=spec.release.breaker.limits or plan.breaker)


def _registered_version(spec: ModelSpec, stores: Stores, candidate: Candidate, fitted: Fitted) -> int:
    if not spec.training.refit:
        return candidate.version
    as_of = candidate.as_of.isoformat()
    tags = {"fit": "refit", "gated_version": str(candidate.version), "as_of": as_of, "training_end": as_of}
    return stores.registry.register(spec.name, candidate.mlflow_run, "refit", fitted.pipeline, fitted.trusted, tags)


def _bundle_files(spec: ModelSpec, fitted: Fitted, rows: TrainingRows) -> dict[str, bytes]:
    newest = rows.whole.tail(GOLDEN_ROWS)
    raw = raw_rows(fitted.contract, newest)
    files = {BACKGROUND: _background(spec, fitted, rows).to_json()}
    if fitted.scorer is not None:
        npz, layout = fitted.scorer.to_files()
        golden = GoldenRows.make(fitted.scorer, raw)
        return {**files, "scorer.npz": npz, "scorer.json": layout, "golden.json": golden.to_json()}
    golden = GoldenRows.of(raw, predict(fitted.pipeline, newest[list(spec.feature_names)]))
    return {**files, "pipeline.skops": fitted.skops, "golden.json": golden.to_json()}


def _background(spec: ModelSpec, fitted: Fitted, rows: TrainingRows) -> Background:
    """Rows from all over the training, which explanations of the model's answers are made against."""
    trained = rows.whole if spec.training.refit else rows.fit
    picked = trained.sample(min(BACKGROUND_ROWS, len(trained)), random_state=spec.training.seed).sort_index()
    return Background(tuple(raw_rows(fitted.contract, picked)))


def _same_answers(champion: Manifest, files: dict[str, bytes], fitted: Fitted) -> bool:
    """Is the champion the same scorer under the same contract? Then a new release would change nothing."""
    if champion.features != fitted.contract or champion.imputation != fitted.plan:
        return False
    names = ("golden.json",) if fitted.scorer is None else ("scorer.npz", "scorer.json", "golden.json")
    return all(champion.files.get(name) == f"sha256:{hashlib.sha256(files[name]).hexdigest()}" for name in names)


def _log_bundle(stores: Stores, candidate: Candidate, bundle: str) -> None:
    stores.registry.log_folder(
        candidate.mlflow_run, stores.bundles.path(bundle), f"bundles/{bundle.removeprefix('sha256:')}"
    )
