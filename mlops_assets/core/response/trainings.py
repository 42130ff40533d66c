"""What became of the trainings that were asked for, and how long the next one has to wait.

What to do is the business of `remedies.py`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from mlops_assets.core.ledger import Decision, Record
from mlops_assets.core.response.situation import DRIFT
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.trials.facts import Trial

CameTo = Literal["done", "on trial", "undecided", "unchanged", "refused", "abandoned", "failed", "rejected"]


def trainings(record: Record) -> list[Decision]:
    """Those that are over, oldest first; a version that came of one may still be on trial."""
    return [one for one in record.decisions if one.what.action == "retrain" and one.is_final]


def came_to(record: Record, training: Decision) -> CameTo:
    """What a training that is over came to, the trial of its version included.

    A version that its trial dismissed, or that was taken back after its promotion, is one that was "refused", as if by a gate.
    Where the trial ended "undecided" nothing has got better; one that something else has ended says nothing ("abandoned").
    """
    # A run may have been given up on after it had put a version on trial: the trial tells all the same.
    trial = trial_of(record, training)
    if trial is None:
        return training.outcome or "rejected"
    if training.outcome == "refused" and not trial.promoted:
        # By the workers, while it was being put on trial.
        return "refused"
    step = None if trial.stepped is None else trial.stepped.step
    if step == "roll back" or (step == "dismiss" and not trial.promoted):
        return "refused"
    if trial.promoted:
        return "done"
    if trial.is_open:
        return "on trial"
    return "undecided" if step == "inconclusive" else "abandoned"


def trial_of(record: Record, training: Decision) -> Trial | None:
    """The trial of the version that came of a training; None where it was not tried, or nobody has looked yet."""
    names = {f"run:{run}" for run in training.runs}
    return next((one for one in reversed(record.trials) if one.began.decided_by in names), None)


def held_by_trial(spec: ModelSpec, record: Record, on_trial: int | None) -> str | None:
    """Why no training may begin because of a trial; None where none is under way.

    Once its version is promoted a trial holds nothing up: what is compared then is who answers with who has answered before. Where
    the declaration has gone back to "immediate" nobody looks at a trial any more, and it holds nothing up either.

    Parameters
    ----------
    on_trial
        The challenger of the release plan in force.
    """
    if spec.release.strategy == "immediate":
        return None
    known = record.open_trial
    version = known.began.version if known is not None and not known.promoted else on_trial
    return None if version is None else f"version {version} is on trial"


def refused_in_a_row(record: Record) -> int:
    """How many candidates were refused since one was not, or since a person has looked at it; those that changed nothing aside."""
    count = 0
    for one in reversed(trainings(record)):
        outcome = came_to(record, one)
        if outcome in ("unchanged", "undecided") or (outcome == "abandoned" and trial_of(record, one) is not None):
            continue
        if outcome != "refused" or (record.thawed is not None and (one.now or one.at) <= record.thawed):
            break
        count += 1
    return count


def last_training(record: Record, trigger: str) -> Decision | None:
    """The last training that counts: for decay, those that drift alone asked for and that changed nothing do not."""
    counted = [one for one in trainings(record) if trigger == DRIFT or one.outcome != "unchanged"]
    return counted[-1] if counted else None


def rest_before_next(spec: ModelSpec, record: Record, trigger: str, causes: Sequence[str]) -> timedelta:
    """How long to wait after the decision on the last training that counts: so many cooldowns.

    Of candidates that changed nothing, because they were no better by their gates or their trial ended undecided, each in a row
    doubles the time until the next, up to eightfold. So does each training for one and the same decay, from half a cooldown on: the
    first one knew little of what has changed.
    """
    over = trainings(record)
    if trigger == DRIFT:
        return spec.response.cooldown * _doubled(record, over, fruitless=("unchanged", "undecided"))
    about = {incident.id for cause in causes if (incident := record.incident_of(cause)) is not None}
    mine = [one for one in over if about & {*one.what.incidents}]
    again = sum(came_to(record, one) == "done" for one in mine)
    cooldowns = 1.0 if not again else 2.0 ** (again - 2)
    return spec.response.cooldown * cooldowns * _doubled(record, mine, fruitless=("undecided",))


def since(decision: Decision, now: datetime) -> timedelta:
    """By the events' clock where it is known."""
    return now - (decision.now or decision.at)


def _doubled(record: Record, over: Sequence[Decision], fruitless: Sequence[CameTo]) -> float:
    count = 0
    for one in reversed(over):
        if came_to(record, one) not in fruitless:
            break
        count += 1
    return 2.0 ** min(count, 3)
