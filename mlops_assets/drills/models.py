"""Drills of models and decisions: a poisoned training, a bad release, a slow one, a killed daemon, damaged bundles."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mlops_assets.core.ledger import Decision
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.rollout import Entrant, Origin, Release, promotion
from mlops_assets.core.scoring.persist import dump_pipeline
from mlops_assets.core.scoring.scorer import GoldenRows
from mlops_assets.core.scoring.uncompiled import PipelineScorer
from mlops_assets.core.training import find_classes, fit_pipeline
from mlops_assets.core.training_request import TrainingRequest
from mlops_assets.drills.bad_models import register_shuffled, release_misled
from mlops_assets.drills.crashes import kill_server, newer
from mlops_assets.drills.stage import DrillFailed, Stage
from mlops_assets.drills.trials import (
    PERSON,
    breaker_opened,
    ended,
    entrant_of,
    label_until_over,
    last_look_at,
    lookalike,
    to_canary,
)
from mlops_assets.operations.by_hand import ByHand, NotPossible
from mlops_assets.operations.confirm import move_champion
from mlops_assets.operations.plan_changes import ChangeFailed, ChangeRefused
from mlops_assets.operations.rollback import force_release, roll_back
from mlops_assets.operations.supervise import wait_until_live
from mlops_assets.operations.traffic import labels_of
from mlops_assets.sources.table import read_source

TRAINED_S = 600.0
POISONED_DAYS, SOUND_DAYS = 10, 15
SLOW_ROWS, SLOW_TREES = 3_000, 800
MISLED_MIN = 30.0  # about what a flight from New York spends on the ground between its gates
CANARY_DAYS = 6


def bad_retrain(stage: Stage) -> None:
    """Ten days of labels are the wrong way round, and a model is trained on them: the gates refuse it, the champion stays."""
    before = stage.champion()
    traffic = stage.send(stage.days(0, POISONED_DAYS + SOUND_DAYS))
    stage.step(f"{len(traffic.rows):,} flights of {POISONED_DAYS + SOUND_DAYS} days are answered")
    labels, name = labels_of(stage.spec, traffic.rows, traffic.prediction_ids), stage.spec.label.column
    until = Windows.of(stage.spec).bounds(stage.window(POISONED_DAYS - 1))[1]
    poisoned = set(traffic.rows.index[traffic.rows[stage.spec.event_time] < until])
    ids = {traffic.prediction_ids[position] for position in poisoned}
    labels["value"] = labels["value"].where(~labels["id"].isin(ids), 1 - labels["value"])
    stage.inject(f"the labels of {POISONED_DAYS} days say {name} where it was not, and the other way round")
    stage.post(labels)
    stage.sealed()
    as_of = Windows.of(stage.spec).bounds(stage.window(POISONED_DAYS + SOUND_DAYS - 1))[1]
    by_hand = ByHand(stage.spec, stage.stores, PERSON, lambda: datetime.now(UTC))
    try:
        wanted = by_hand.retrain("a drill", TrainingRequest("hand"), as_of).id
    except NotPossible as already:
        stage.step(f"{already}")
        wanted = stage.trainings()[-1].id
    ended = stage.wait(lambda: _ended(stage, wanted), "the training ends", TRAINED_S, every_s=0.5)
    stage.found(f"{ended.outcome}: {ended.detail[:200]}", ended.ended_at)
    stage.require(ended.outcome == "refused", "the gates refuse it")
    stage.require(stage.champion() == before, "the champion stays")
    stage.harmless("nobody was answered by it", ended.ended_at)
    incident = stage.wait(lambda: stage.incident("gates"), "an incident is opened")
    stage.healed(f"{incident.title}; the next attempt waits for the cooldown")


def bad_release(stage: Stage) -> None:
    """A version that learnt from labels which are all too large passes its gates; the canary finds it out, and it is withdrawn."""
    spec, stores, good = stage.spec, stage.stores, stage.champion()
    stage.label(stage.send(stage.days(0, 2)))
    stage.after_a_look()
    released = release_misled(spec, stores, spec.live_from, MISLED_MIN, PERSON)
    bad = released.manifest.version
    stage.bad_versions.add(bad)
    stage.require(released.on_trial, f"version {bad} has passed its gates, and is tried: {released.plan.reason[:80]}")
    stage.inject(f"version {bad} learnt from labels {MISLED_MIN:g} minutes too large, and answers a canary")
    days = label_until_over(stage, bad, (stage.days(number) for number in range(2, 2 + CANARY_DAYS)))
    over = stage.wait(lambda: ended(stage, bad), f"the canary of version {bad} is over")
    assert over.stepped is not None
    stage.times.detect_windows = days
    stage.found(over.stepped.reason, last_look_at(stage, over))
    stage.harmless(f"{over.stepped.step} with release {over.stepped.release}", over.stepped_at)
    plan = stage.plan()
    stage.require(plan.champion.version == good and bad in plan.withdrawn, "the champion stays, and it never returns")
    incident = stage.wait(lambda: stage.incident("gates"), "an incident is opened")
    stage.require(not stage.trainings(), "nothing was trained")
    after = stage.send(stage.days(2 + days))
    given = {one.version for one in stage.tally.acknowledged[-len(after.rows) :]}
    stage.require(given == {good}, f"the next day is answered by version {good} alone")
    stage.healed(f"callers have what they had before; told of: {incident.title}")


def slow_model(stage: Stage) -> None:
    """A version that is right and slow answers a canary: the workers' breakers stop asking it at once, and it is withdrawn."""
    good, slow = stage.champion(), _register_slow(stage)
    version = slow.version
    stage.bad_versions.add(version)
    stage.after_a_look()
    with stage.under_load(callers=4):
        stage.goes_on(100)
        stage.inject(f"version {version}, served by scikit-learn, comes into a canary")
        changed = to_canary(stage, entrant_of(stage, slow))
        stage.step(f"it is tried with release {changed.plan.release}")
        opened = stage.wait(lambda: breaker_opened(stage, version), "its breaker opens")
        stage.found(f"the breaker has opened: {opened}")
        over = stage.wait(lambda: ended(stage, version), f"the canary of version {version} is over")
        assert over.stepped is not None
        stage.harmless(f"{over.stepped.step}: {over.stepped.reason}", over.stepped_at)
        plan = stage.plan()
        stage.require(plan.champion.version == good and version in plan.withdrawn, "it never returns")
        stage.goes_on(100)
        stage.require({one.version for one in stage.tally.acknowledged[-50:]} == {good}, "the champion answers all")
    stage.healed("tried and taken back")
    # Who is told to come again (503) counts as touched, and may be for want of a processor too.
    stage.require(stage.tally.failed + stage.tally.unanswered == 0, "no request failed")


def _register_slow(stage: Stage) -> Release:
    """A version of very many trees that is served uncompiled, with golden rows of its own and the champion's reference."""
    spec, stores = stage.spec, stage.stores
    champion = stores.bundles.get(stage.plan().champion.bundle)
    manifest = champion.manifest
    trees = {**spec.training.parameters, "max_iter": SLOW_TREES, "learning_rate": 0.01}
    slow = spec.model_copy(update={"training": spec.training.model_copy(update={"parameters": trees})})
    frame = read_source(spec.source)
    rows = frame[(frame[spec.event_time] < spec.live_from) & frame[spec.label.column].notna()].tail(SLOW_ROWS)
    rows = rows.reset_index(drop=True)
    classes = find_classes(spec, rows[spec.label.column])
    pipeline = fit_pipeline(slow, rows, manifest.imputation, classes)
    skops, trusted = dump_pipeline(pipeline)
    version = stores.registry.register(spec.name, manifest.mlflow_run, "slow", pipeline, trusted, {"fit": "drill"})
    told = msgspec.structs.replace(
        manifest, version=version, uncompiled="served by scikit-learn for a drill", trusted_types=trusted
    )
    golden = GoldenRows.from_json(champion.files["golden.json"])
    answers = PipelineScorer(skops, told).score_rows(golden.rows)
    kept = {name: content for name, content in champion.files.items() if not name.startswith("scorer.")}
    files = {**kept, "pipeline.skops": skops, "golden.json": GoldenRows.of(golden.rows, answers).to_json()}
    bundle = stores.bundles.put(told, files)
    stores.registry.tag(spec.name, version, "bundle", bundle)
    return Release(version, bundle)


def crash_daemon(stage: Stage) -> None:
    """The daemon and its code server are killed in the moment in which a decision is written; it is carried out once, later."""
    good = stage.champion()
    stage.label(stage.send(stage.days(0, 2)))
    bad = register_shuffled(stage.spec, stage.stores, stage.spec.live_from)
    stage.bad_versions.add(bad)
    stage.after_a_look()
    forced = force_release(stage.spec, stage.stores, bad, reason="a drill", decided_by=PERSON, now=datetime.now(UTC))
    stage.label(stage.send(stage.days(2, 4)))
    decision = stage.wait(lambda: stage.decided("roll back"), "a rollback is decided", every_s=0.01)
    stage.inject(f"kill -9 of the daemon and its code server, just when {decision.id} is decided")
    stage.system.daemon.kill()
    known = stage.decided("roll back")
    done = known is not None and known.is_final
    stage.step(f"the decision is {'over already' if done else 'not over'}, release {_release(stage)} is in force")
    stage.system.daemon.start()
    stage.step("the daemon is started again")
    ended = stage.wait(lambda: _ended(stage, decision.id), "the decision is carried out", every_s=0.2)
    stage.require(ended.outcome == "done", f"it is {ended.outcome}: {ended.detail[:120]}")
    stage.harmless(f"version {stage.champion()} serves", ended.ended_at)
    stage.require(stage.champion() == good, "the former version serves again")
    stage.after_a_look()
    stage.after_a_look()
    history = stage.stores.releases.history(stage.spec.name)
    made = [plan for plan in history if plan.rollout == decision.id]
    stage.require(len(made) == 1, "one plan was made for it")
    again = [one for one in stage.record.decisions if one.what.action in ("roll back", "freeze", "retrain")]
    stage.require(len(again) == 1, "nothing was decided twice")
    stage.require(stage.stores.ledger.verify().intact, "the ledger is intact")
    stage.healed(f"done once, {len(history) - forced.plan.release} plan after the bad one")


def corrupt_bundle(stage: Stage) -> None:
    """Bundles are damaged on disk: one to be tried, one to go back to, and the champion's while the service starts again."""
    spec, stores, first = stage.spec, stage.stores, stage.champion()
    second, third = _twin(stage), _twin(stage)
    tried = lookalike(stage, third + 1)
    bundles = {plan.champion.version: plan.champion.bundle for plan in stores.releases.history(spec.name)}
    stage.bad_versions |= {second, tried.release.version}
    with stage.under_load():
        stage.inject(
            f"damaged wherever they are kept: the bundles of version {tried.release.version}, to be tried, and of {second}, to go "
            "back to"
        )
        for copy in (*_copies_of(stage, tried.release.bundle), *_copies_of(stage, bundles[second])):
            damage(copy)
        try:
            to_canary(stage, tried)
            raise DrillFailed(f"version {tried.release.version} is tried with a damaged bundle")
        except ChangeFailed as refusal:
            stage.found(f"refused: {str(refusal)[:160]}")
        plan = stage.plan()
        stage.require(plan.challenger is None and plan.champion.version == third, "the champion answers everybody")
        release = _release(stage)
        try:
            roll_back(spec, stores, second, reason="a drill", decided_by=PERSON, now=datetime.now(UTC))
            raise DrillFailed(f"version {second} serves from a damaged bundle")
        except ChangeRefused as refusal:
            stage.step(f"refused: {str(refusal)[:160]}")
        stage.require(_release(stage) == release, "nothing has moved")
        changed = roll_back(spec, stores, None, reason="a drill", decided_by=PERSON, now=datetime.now(UTC))
        stage.require(changed.plan.champion.version == first, f"the next good one, version {first}, follows {third}")
        stage.harmless(f"release {changed.plan.release} serves version {first}")
        stage.goes_on()
        stage.step("BROKEN: the bundle of the champion is damaged in the store, and the server is killed")
        damage(stores.bundles.path(bundles[first]))
        kill_server(stage)
        killed = datetime.now(UTC)
        stage.wait(lambda: newer(stage.tally.last_answer, killed), "callers are answered again", 120)
        stage.goes_on()
    gone = (stage.tally.last_answer or killed) - killed
    stage.healed(f"the bundle was fetched again, and callers are answered {gone.total_seconds():.0f} s after the kill")


def damage(bundle: Path) -> None:
    """Turn one bit of a bundle's largest file round."""
    file = max(bundle.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _copies_of(stage: Stage, bundle: str) -> list[Path]:
    """The store's copy, those in Bentos, and that of MLflow."""
    return sorted(stage.stores.home.root.rglob(bundle.removeprefix("sha256:")))


def _twin(stage: Stage) -> int:
    """Another version that answers as the champion does, registered, bundled, logged and promoted like any."""
    spec, stores = stage.spec, stage.stores
    current = stores.releases.current(spec.name)
    assert current is not None
    champion = stores.bundles.get(current.champion.bundle)
    manifest = champion.manifest
    pipeline = stores.registry.load(spec.name, manifest.version)
    _, trusted = dump_pipeline(pipeline)
    version = stores.registry.register(spec.name, manifest.mlflow_run, "twin", pipeline, trusted, {"fit": "drill"})
    bundle = stores.bundles.put(msgspec.structs.replace(manifest, version=version), champion.files)
    name = bundle.removeprefix("sha256:")
    stores.registry.log_folder(manifest.mlflow_run, stores.bundles.path(bundle), f"bundles/{name}")
    stores.registry.tag(spec.name, version, "bundle", bundle)
    features = tuple(feature.name for feature in manifest.features)
    entrant = Entrant(Release(version, bundle), features, manifest.fallback_value, manifest.as_of)
    origin = Origin(f"r-twin-{version}", "a drill", PERSON, datetime.now(UTC))
    plan = promotion(current, entrant, origin, model=spec.name, salt=current.salt)
    stores.releases.publish(plan)
    move_champion(stores, plan)
    wait_until_live(stores.home, spec.name, plan.release)
    return version


def _release(stage: Stage) -> int:
    plan = stage.stores.releases.current(stage.spec.name)
    return 0 if plan is None else plan.release


def _ended(stage: Stage, decision: str) -> Decision | None:
    one = next((known for known in stage.record.decisions if known.id == decision), None)
    return one if one is not None and one.is_final else None
