"""What drills, and the demonstration's acts, do with trials: put a version into a canary, and wait for what becomes of it.

Nothing here decides anything about a trial: that is done by the sensor of the rollout, as in service.
"""

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
import pandas as pd

from mlops_assets.core.rollout import Entrant, Origin, Release, ReleasePlan, trial
from mlops_assets.core.trials.facts import Trial
from mlops_assets.drills.stage import LOOK_S, DrillFailed, Stage
from mlops_assets.operations.plan_changes import Changed, History, carry_out
from mlops_assets.operations.supervise import HEARTBEAT_MAX_AGE

PERSON = "user:drill"


def to_canary(stage: Stage, entrant: Entrant) -> Changed:
    """Let a version answer the first share of the declared canary, as a release that has passed its gates would.

    Raises
    ------
    ChangeRefused, ChangeFailed
        When it may not be tried, or a worker refuses it; then the champion answers everybody.
    """
    share, salt = stage.spec.release.canary.shares[0], secrets.token_hex(8)
    origin = Origin(f"r-drill-{entrant.release.version}", "a drill", PERSON, datetime.now(UTC))

    def step(history: History) -> ReleasePlan:
        return trial(history[-1], entrant, "canary", share, origin, salt)

    return carry_out(stage.spec, stage.stores, origin, step)


def lookalike(stage: Stage, version: int) -> Entrant:
    """A version that answers as the champion does, with a bundle of its own in the store, and nowhere else."""
    plan = stage.plan()
    champion = stage.stores.bundles.get(plan.champion.bundle)
    manifest = msgspec.structs.replace(champion.manifest, version=version)
    bundle = stage.stores.bundles.put(manifest, champion.files)
    return entrant_of(stage, Release(version, bundle))


def entrant_of(stage: Stage, release: Release) -> Entrant:
    """A version as a plan takes it in, by what its manifest says."""
    manifest = stage.stores.bundles.get(release.bundle).manifest
    features = tuple(feature.name for feature in manifest.features)
    return Entrant(release, features, manifest.fallback_value, manifest.as_of)


def trial_of(stage: Stage, version: int) -> Trial | None:
    """The newest trial of a version, as the ledger tells it."""
    return next((one for one in reversed(stage.record.trials) if one.began.version == version), None)


def ended(stage: Stage, version: int) -> Trial | None:
    """The trial of a version, when it is over; a promotion is not the end of it."""
    one = trial_of(stage, version)
    return one if one is not None and not one.is_open else None


def last_look_at(stage: Stage, one: Trial) -> datetime | None:
    """When the rollout has written down its last look at a trial, by the wall clock."""
    lines = stage.stores.ledger.entries(stage.spec.name, kinds=("trial looked",))
    return max((line.entry.at for line in lines if line.entry.subject == one.id), default=None)


def breaker_opened(stage: Stage, version: int) -> str | None:
    """Why a worker asks a version on trial no more, as it reports; None while none has ceased to."""
    for worker in stage.stores.workers.live(datetime.now(UTC), HEARTBEAT_MAX_AGE):
        loaded = worker.models.get(stage.spec.name)
        known = None if loaded is None else loaded.challenger
        if known is not None and known.version == version and known.breaker.trips:
            return known.breaker.reason or "without a reason"
    return None


def promoted(stage: Stage, before: int, days: Iterable[pd.DataFrame], timeout_s: float = LOOK_S) -> int:
    """Wait until another version than `before` has taken over, at once or after its trial; returns which.

    Where it is put on trial, further days are sent and labelled one after the other, for without traffic nothing is found out.

    Raises
    ------
    DrillFailed
        When none is released in time, its trial ends otherwise, or the days do not suffice.
    """

    def came() -> int | None:
        plan = stage.plan()
        if plan.champion.version != before:
            return plan.champion.version
        return None if plan.challenger is None else plan.challenger.version

    version = stage.wait(came, "another version is released, or on trial", timeout_s, every_s=0.5)
    if stage.champion() == version:
        return version
    stage.step(f"version {version} is on trial")
    if not label_until_over(stage, version, days):
        stage.wait(lambda: _is_over(trial_of(stage, version)), f"the trial of version {version} comes to something")
    one = trial_of(stage, version)
    if one is None or not one.promoted:
        why = "" if one is None or one.stepped is None else f": {one.stepped.step}, {one.stepped.reason}"
        raise DrillFailed(f"version {version} was not promoted{why}")
    stage.step(f"promoted: {'' if one.stepped is None else one.stepped.reason}")
    return version


def label_until_over(stage: Stage, version: int, days: Iterable[pd.DataFrame]) -> int:
    """Send and label one day after the other until a version is promoted, or its trial is over; returns how many days, 0 if never.

    The next day is sent when the rollout has looked once more, which is written down where it rests on clearly more than before.
    """
    for number, rows in enumerate(days, 1):
        before = trial_of(stage, version)
        looks = 0 if before is None else before.looks
        stage.label(stage.send(rows))

        def looked(looks: int = looks) -> Trial | None:
            one = trial_of(stage, version)
            return one if one is not None and (one.looks > looks or _is_over(one)) and not one.due else None

        if _is_over(stage.wait(looked, f"the trial of version {version} is looked at")):
            return number
    return 0


def _is_over(one: Trial | None) -> bool:
    return one is not None and (one.promoted or not one.is_open)
