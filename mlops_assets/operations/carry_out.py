"""Carrying decisions out: what has ended is settled, what is due is done, and trainings are asked for.

The next step is decided in `core/carrying.py`. Everything can be repeated after a stop at any point: what is written has a key,
a change of the release plan goes by the id of its decision, and a training by the key of its run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from mlops_assets.core.carrying import (
    Begin,
    KnownRun,
    Line,
    Note,
    Settle,
    Wait,
    held_back,
    is_automatic,
    next_step,
    of_runs,
    settled,
)
from mlops_assets.core.ledger import Decided, Decision, Entry, Record, Released, Started
from mlops_assets.core.response import policy_of
from mlops_assets.core.rollout import ReleasePlan, former_champions, outcome_of
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.trials.facts import Trial
from mlops_assets.operations.decided_change import KEEPING, change_as_decided
from mlops_assets.operations.held_trainings import resting, waits_for_trial
from mlops_assets.operations.look import newest_judged
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.files import locked, make_folder

DECISION_TAG, ATTEMPT_TAG = "mlops_assets/decision", "mlops_assets/attempt"
TRIGGER_TAG, INCIDENTS_TAG = "mlops_assets/trigger", "mlops_assets/incidents"

# The command that has published a way back writes it down itself, when it has imported what its proof needs: some seconds.
TAKE_UP_AFTER = timedelta(minutes=1)

Plans = tuple[ReleasePlan, ...]


class Runs(Protocol):
    """The runs of one model, wherever they are recorded."""

    @property
    def are_known(self) -> bool:
        """Can it be told who has asked for a run?"""
        ...

    def of(self, decision: str) -> tuple[KnownRun, ...]:
        """Those that a decision has asked for, oldest first."""
        ...

    def ended(self, job: str) -> tuple[KnownRun, ...]:
        """The last ones of the job `<model>_<job>` that have ended, newest first."""
        ...

    def decision_of(self, run: str) -> str | None:
        """The decision that asked for a run; None where it is not known, or nobody's."""
        ...


class NoRuns:
    """For where they cannot be asked for, such as the command line."""

    are_known = False

    def of(self, decision: str) -> tuple[KnownRun, ...]:
        return ()

    def ended(self, job: str) -> tuple[KnownRun, ...]:
        return ()

    def decision_of(self, run: str) -> str | None:
        return None


@dataclass(frozen=True)
class TrainingWanted:
    """A lifecycle run that is to be started; the same `key` stands for the same run."""

    decision: Decision
    attempt: int

    @property
    def key(self) -> str:
        return f"{self.decision.id}/{self.attempt}"

    @property
    def tags(self) -> dict[str, str]:
        what = self.decision.what
        tags = {
            DECISION_TAG: self.decision.id,
            ATTEMPT_TAG: str(self.attempt),
            TRIGGER_TAG: what.details.get("trigger", "hand"),
            INCIDENTS_TAG: ",".join(what.incidents),
        }
        return {name: text for name, text in tags.items() if text}

    def config(self) -> dict[str, object]:
        """The run's configuration, of `raw_data`."""
        details = self.decision.what.details
        asked: dict[str, object] = {"trigger": details.get("trigger", "hand")}
        asked |= {name: details[name] for name in ("as_of", "window") if details.get(name)}
        if without := [name for name in details.get("without", "").split(",") if name]:
            asked["without"] = without
        return {"ops": {f"{self.decision.model}__raw_data": {"config": asked}}}


class Carrier:
    """Carries out what is decided about one model, in the name of `actor`."""

    def __init__(self, spec: ModelSpec, stores: Stores, runs: Runs, clock: Callable[[], datetime], actor: str) -> None:
        self._spec, self._stores, self._runs, self._clock, self._actor = spec, stores, runs, clock, actor

    def carry_on(self) -> tuple[TrainingWanted, ...]:
        """Go on with every decision that is open, as far as that goes now; the trainings that the caller is to start.

        Raises
        ------
        LedgerUnavailable, OSError
            When a store is out of reach; then the rest is left to the next time.
        """
        wanted = []
        self._take_up()
        for decision in self.record.open_decisions:
            training = self.carry_out(decision.id)
            if training is not None:
                wanted.append(training)
        self.note_releases()
        return tuple(wanted)

    def carry_out(self, decision: str) -> TrainingWanted | None:
        """Go on with one decision until it is over or has to wait; a training that the caller is to start, if it wants one."""
        for _ in range(2 * self._spec.response.attempts + 2):
            record = self.record
            one = next(known for known in record.decisions if known.id == decision)
            match self._next(record, one):
                case Wait():
                    return None
                case Note(attempt, run):
                    self._write(one, [(one.id, Started(attempt, run), f"{one.id} started {attempt} {run}")])
                    return None
                case Settle() as end:
                    self._settle(record, one, end)
                case Begin(attempt) if one.what.action == "retrain":
                    return TrainingWanted(one, attempt)
                case Begin():
                    self._change(one.id)
                    return None
        return None

    def tell_of_runs(self) -> None:
        """Open, join and close the incidents of runs that fail for another reason than a gate."""
        for job in ("lifecycle", "monitoring"):
            if lines := of_runs(self.record, job, self._runs.ended(job)):
                self._write_at(newest_judged(self._spec, self._stores)[1], lines)

    def note_releases(self) -> tuple[Released, ...]:
        """Write down every change of the version that answers which the ledger does not know yet, however it came about."""
        return _note_releases(self._spec, self._stores, self._actor, self._clock, self._runs)

    def held(self, decision: Decision) -> str | None:
        """Why a decision may not begin now; None where it may, or it has begun."""
        if decision.running:
            return None
        record = self.record
        if decision.what.action == "retrain":
            held = resting(self._spec, self._stores, record)
            record = msgspec.structs.replace(
                record, decisions=tuple(one for one in record.decisions if one not in held)
            )
        return held_back(record, decision) or waits_for_trial(self._spec, self._stores, decision)

    @property
    def record(self) -> Record:
        return self._stores.ledger.of(self._spec.name)

    def _take_up(self) -> None:
        """Write down a way back whose plan a person has published without coming to write it down; then it is carried out."""
        record, at = self.record, self._clock()
        fresh, history = _not_noted(self._spec, self._stores, record)
        for plan in fresh:
            if not _is_unwritten(record, plan) or at - plan.decided_at <= TAKE_UP_AFTER:
                continue
            details, policy = _as_asked(history[: plan.release]), policy_of(self._spec)
            decided = Decided("roll back", "auto", plan.reason, None, harmful(record), (), details, policy)
            now, key = newest_judged(self._spec, self._stores)[1], decided_once(plan.rollout)
            self._stores.ledger.record(Entry(self._spec.name, plan.rollout, decided, plan.decided_by, at, now, key))

    def _next(self, record: Record, one: Decision) -> Begin | Note | Settle | Wait:
        runs = self._runs.of(one.id) if one.what.action == "retrain" and not one.is_final else ()
        released, on_trial = self._released_by(runs)
        return next_step(
            one,
            runs,
            attempts=self._spec.response.attempts,
            now=self._clock(),
            held=self.held(one),
            released=released,
            on_trial=on_trial,
        )

    def _released_by(self, runs: tuple[KnownRun, ...]) -> tuple[str | None, bool]:
        """Why a plan that one of these runs has published is in force, and whether it only tries the version so far.

        None where there is none, or it was taken back.
        """
        names = {f"run:{run.id}" for run in runs}
        if not names:
            return None, False
        history = self._stores.releases.history(self._spec.name)
        mine = [plan for plan in history if plan.decided_by in names]
        if not mine or _is_reversal(history, mine[-1]):
            return None, False
        plan = mine[-1]
        if plan.challenger is not None:
            what = f"version {plan.challenger.version} is tried beside version {plan.champion.version} with release {plan.release}"
            return f"{what}: {plan.reason}", True
        return f"version {plan.champion.version} serves with release {plan.release}: {plan.reason}", False

    def _change(self, decision: str) -> None:
        """Change the release plan as decided. One process at a time does so; who comes later finds it done."""
        make_folder(self._stores.home.root)
        with locked(self._stores.home.root / f".change-{self._spec.name}.lock"):
            record = self.record
            one = next(known for known in record.decisions if known.id == decision)
            step = self._next(record, one)
            if not isinstance(step, Begin):
                return
            key = f"{one.id} started {step.attempt}"
            self._write(one, [(one.id, Started(step.attempt), key)])
            last = step.attempt >= self._spec.response.attempts
            result = change_as_decided(self._spec, self._stores, one, self._clock(), is_last_attempt=last)
            self._settle(self.record, one, Settle(result.outcome, step.attempt, "", result.detail))

    def _settle(self, record: Record, one: Decision, end: Settle) -> None:
        self._write(one, settled(record, one, end))

    def _write(self, one: Decision, lines: list[Line]) -> None:
        self._write_at(one.now, lines)

    def _write_at(self, now: datetime | None, lines: list[Line]) -> None:
        at = self._clock()
        entries = [
            Entry(self._spec.name, subject, fact, self._actor, at, now, key or None) for subject, fact, key in lines
        ]
        if entries:
            self._stores.ledger.record(*entries)


def harmful(record: Record) -> tuple[str, ...]:
    """Open incidents of the model itself, which going back may mitigate."""
    return tuple(one.id for one in record.open_incidents if one.cause in ("performance", "service"))


def decided_once(decision: str) -> str:
    """The key under which a decision is written that began before it was written down, by whoever comes first."""
    return f"{decision} decided"


def _note_releases(
    spec: ModelSpec, stores: Stores, actor: str, clock: Callable[[], datetime], runs: Runs
) -> tuple[Released, ...]:
    record = stores.ledger.of(spec.name)
    fresh, history = _not_noted(spec, stores, record)
    new = []
    for plan in fresh:
        if _is_unwritten(record, plan):
            break  # what is noted is not looked at again: first comes the decision, of the command or of who takes it up
        before = history[plan.release - 2] if plan.release > 1 else None
        if before is not None and plan.champion.version == before.champion.version and not _returns(before, plan):
            continue
        decision = _decision_of(record, plan, runs)
        if decision is None and plan.decided_by.startswith("run:") and not runs.are_known:
            break  # left to who knows the runs: whether a person was needed is written down once
        released = Released(
            plan.release,
            plan.champion.version,
            None if before is None else before.champion.version,
            _strategy(record, history, plan),
            is_automatic(decision) if decision is not None else _trial_of(record, plan) is not None,
            plan.reason,
        )
        now = decision.now if decision is not None else None
        if now is None:
            now = max(plan.as_of, newest_judged(spec, stores)[1] or plan.as_of)
        key = f"{spec.name} release {plan.release}"
        if stores.ledger.record(Entry(spec.name, spec.name, released, actor, clock(), now, key)):
            new.append(released)
    return tuple(new)


def _not_noted(spec: ModelSpec, stores: Stores, record: Record) -> tuple[Plans, Plans]:
    """The plans since the last release that is written down, and all of them, oldest first; nothing where there are none since."""
    noted = max((one.released.release for one in record.releases), default=0)
    current = stores.releases.current(spec.name)
    if current is None or current.release <= noted:
        return (), ()
    history = stores.releases.history(spec.name)
    return history[noted:], history


def _is_unwritten(record: Record, plan: ReleasePlan) -> bool:
    """Is this a way back that a person has published, and that nobody has written down yet? Other changes have other ids."""
    by_hand = plan.decided_by.startswith("user:") and plan.rollout.startswith("d-")
    return by_hand and all(one.id != plan.rollout for one in record.decisions)


def _as_asked(history: Plans) -> dict[str, str]:
    """What the last of these plans was asked for, as far as it tells: no version where it is the last good one anyway."""
    plan, before = history[-1], history[:-1]
    good = (before[-1].last_good if before else None) or next(iter(former_champions(before)), None)
    version = {} if plan.champion == good else {"version": str(plan.champion.version)}
    keeps = bool(before) and before[-1].champion.version not in plan.withdrawn
    return version | (KEEPING if keeps else {})


def _returns(before: ReleasePlan, plan: ReleasePlan) -> bool:
    return before.retired is not None and plan.retired is None


def _decision_of(record: Record, plan: ReleasePlan, runs: Runs) -> Decision | None:
    run = plan.decided_by.removeprefix("run:") if plan.decided_by.startswith("run:") else None
    by_run = runs.decision_of(run) if run is not None else None
    for one in record.decisions:
        if one.id in (plan.rollout, by_run) or (run is not None and run in one.runs):
            return one
    return None


def _trial_of(record: Record, plan: ReleasePlan) -> Trial | None:
    """The trial whose rollout has made this plan; None where another cause has."""
    return next((one for one in record.trials if plan.rollout.startswith(f"{one.id}/")), None)


def _strategy(record: Record, history: tuple[ReleasePlan, ...], plan: ReleasePlan) -> str:
    if plan.forced:
        return "forced"
    tried = _trial_of(record, plan)
    if tried is not None and plan.champion.version == tried.began.version:
        return tried.began.protocol.strategy
    has_served = any(one.champion == plan.champion for one in history[: plan.release - 1])
    return "rollback" if has_served else "immediate"


def _is_reversal(history: tuple[ReleasePlan, ...], plan: ReleasePlan) -> bool:
    """Does this plan take back the one before it?"""
    if plan.release < 3:
        return False
    former = history[plan.release - 2]
    _, taken_back = outcome_of(history[: plan.release], former.rollout)
    return taken_back
