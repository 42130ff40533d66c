"""A training that the calendar asks for: decided and written down like every other, through the same gates."""

import hashlib
from collections.abc import Callable
from datetime import datetime

from mlops_assets.core.ledger import Decided, Entry, Fact, Started
from mlops_assets.core.response import held_by_trial, policy_of
from mlops_assets.core.response.remedies import mode_of
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.carry_out import TrainingWanted
from mlops_assets.operations.look import newest_judged
from mlops_assets.operations.respond import version_on_trial
from mlops_assets.operations.stores import Stores


def train_by_calendar(
    spec: ModelSpec, stores: Stores, due: datetime, clock: Callable[[], datetime], actor: str
) -> TrainingWanted | str:
    """The training of a date, which the caller is to start; or why there is none.

    A date is one decision, however often it is asked for. Where trainings need leave, it waits for that, and the sensor of the
    response starts it.
    """
    record, mode = stores.ledger.of(spec.name), mode_of(spec, "retrain")
    if record.retired is not None:
        return f"out of service: {record.retired}"
    if record.frozen is not None:
        return f"automation is frozen: {record.frozen}"
    if mode == "off":
        return "trainings are switched off (response.actions.retrain)"
    if (held := held_by_trial(spec, record, version_on_trial(spec, stores))) is not None:
        return f"{held}: the next date is waited for"
    name = f"d-{hashlib.sha256(f'{spec.name} calendar {due.isoformat()}'.encode()).hexdigest()[:16]}"
    others = [one for one in record.open_decisions if one.what.action == "retrain" and one.id != name]
    if others:
        return f"a training is under way or wanted already: {others[0].id}"
    reason = f"the calendar asks for it: {spec.response.schedule}, due {due:%Y-%m-%d %H:%M}"
    decided = Decided("retrain", mode, reason, details={"trigger": "schedule"}, policy=policy_of(spec))
    facts: list[Fact] = [decided, Started(1)] if mode == "auto" else [decided]
    at, now = clock(), newest_judged(spec, stores)[1]
    keys = (name, f"{name} started 1")
    entries = [Entry(spec.name, name, fact, actor, at, now, key) for fact, key in zip(facts, keys, strict=False)]
    stores.ledger.record(*entries)
    one = next(known for known in stores.ledger.of(spec.name).decisions if known.id == name)
    if one.is_final:
        return f"{name} is over: {one.outcome or 'rejected'}"
    return TrainingWanted(one, 1) if mode == "auto" and one.attempts <= 1 else f"{name} waits"
