"""One drill from beginning to end: the ground put back, the system started, the drill played, and the log verified."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import httpx

from mlops_assets.core.records import SHADOW, PredictionRecord
from mlops_assets.core.spec import ModelSpec
from mlops_assets.drills.ground import Ground, Overrides
from mlops_assets.drills.report import DrillResult
from mlops_assets.drills.stage import DrillFailed, Stage
from mlops_assets.drills.system import running_system
from mlops_assets.drills.touched import Touched, touched
from mlops_assets.drills.verify import verify
from mlops_assets.operations.client import ServiceError
from mlops_assets.operations.plan_changes import ChangeFailed, ChangeRefused
from mlops_assets.operations.supervise import NotLive
from mlops_assets.stores.database import LedgerUnavailable
from mlops_assets.stores.home import Home

# What a system that does not heal may answer a drill with; a fault of the drill itself is none of these.
_FAILURES = (DrillFailed, ServiceError, httpx.HTTPError, ChangeRefused, ChangeFailed, NotLive, LedgerUnavailable)


@dataclass(frozen=True)
class Touch:
    """Up to when requests count as touched, and what share of the entities may be; None where nothing is declared of it."""

    share: float | None
    until: Literal["mitigated", "resolved"] = "mitigated"


@dataclass(frozen=True)
class Drill:
    """What is broken, about which model, on what kind of system.

    Attributes
    ----------
    play
        Breaks something and waits for what must follow; raises `DrillFailed` when it does not.
    overrides
        What the drill's declaration says otherwise than the shipped one.
    prepare
        Done to the state before the system starts.
    daemon
        Whether Dagster's daemon is needed at all.
    touch
        Where the share of touched requests is found out.
    """

    name: str
    what: str
    play: Callable[[Stage], None]
    model: str = "flight_delay"
    overrides: Overrides = field(default_factory=dict)
    prepare: Callable[[Home], None] | None = None
    workers: int = 1
    daemon: bool = True
    touch: Touch | None = None


def run_drill(drill: Drill, ground: Ground, say: Callable[[str], None]) -> DrillResult:
    """Play one drill on ground that has been trained on."""
    specs = ground.restore((drill.model,), drill.overrides)
    try:
        return _played(drill, specs[drill.model], ground, say)
    finally:
        ground.unmount()


def _played(drill: Drill, spec: ModelSpec, ground: Ground, say: Callable[[str], None]) -> DrillResult:
    if drill.prepare is not None:
        drill.prepare(ground.home)
    why = ""
    with running_system(ground, workers=drill.workers, daemon=drill.daemon) as system:
        stage = Stage(spec, system, say)
        try:
            drill.play(stage)
        except _FAILURES as failure:
            why = str(failure)
            stage.step(f"NOT HEALED: {why}")
    seconds = stage.seconds
    with ground.environment():
        verified = verify(stage.stores, stage.tally.acknowledged, stage.tally.labels, spec.release.confirm_timeout)
        answers = [one for one in stage.stores.log.records(spec.name) if isinstance(one, PredictionRecord)]
    felt = None if drill.touch is None else _touched(stage, drill.touch, answers)
    if felt is not None:
        stage.step(felt.told)
    times, tally = stage.times, stage.tally
    return DrillResult(
        name=drill.name,
        healed=not why,
        why=why,
        detect_s=times.since_injection(times.detected),
        mitigate_s=times.since_injection(times.mitigated),
        resolve_s=times.since_injection(times.resolved),
        detect_windows=times.detect_windows,
        answered=verified.acknowledged,
        lost=verified.lost,
        wrong=verified.wrong,
        harmed=_harmed(stage, answers),
        refused=tally.refused,
        failed=tally.failed,
        unanswered=tally.unanswered,
        seconds=seconds,
        examples=verified.examples,
        steps=tuple(stage.steps),
        touched=felt,
    )


def _touched(stage: Stage, touch: Touch, answers: Sequence[PredictionRecord]) -> Touched | None:
    """Whom it touched, from when it was broken; None where it was not broken at all."""
    times, tally = stage.times, stage.tally
    if times.injected is None:
        return None
    end = (times.mitigated if touch.until == "mitigated" else times.resolved) or datetime.now(UTC)
    return touched(tally.asked, tally.acknowledged, answers, stage.bad_versions, (times.injected, end), touch.share)


def _harmed(stage: Stage, answers: Iterable[PredictionRecord]) -> int:
    """Answers by a bad version, or from bad values, that callers got before it was mitigated."""
    end = stage.times.mitigated
    return sum(
        (one.version in stage.bad_versions or one.id in stage.bad_ids)
        and one.status == 200
        and one.role != SHADOW
        and not one.probe
        and (end is None or one.served_at <= end)
        for one in answers
    )
