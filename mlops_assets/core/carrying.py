"""How a decision is carried out: the next step from what is known of it and of its runs, and what is written when one has ended.

Values and pure functions; doing it is the business of `operations/carry_out.py`, and what to decide that of `core/response`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Literal

import msgspec

from mlops_assets.core.ledger import (
    Decision,
    Ended,
    Fact,
    Frozen,
    Joined,
    Mitigated,
    Opened,
    Outcome,
    Record,
    Refused,
    Resolved,
    Severity,
)
from mlops_assets.core.response import DRIFT, GATES, RUNS, SERVICE

RUN_APPEARS_WITHIN = timedelta(minutes=5)

RunState = Literal["under way", "succeeded", "failed", "cancelled"]


class Gate(msgspec.Struct, frozen=True):
    """A blocking check that a run has not passed, and why."""

    name: str
    why: str


class KnownRun(msgspec.Struct, frozen=True):
    """A run as its record tells of it. `refused_by` are the gates that ended it, `error` what else did."""

    id: str
    state: RunState
    attempt: int = 0
    refused_by: tuple[Gate, ...] = ()
    error: str = ""

    @property
    def has_worked(self) -> bool:
        """Did it come to an answer? A refusal is one."""
        return self.state == "succeeded" or bool(self.refused_by)


class Wait(msgspec.Struct, frozen=True):
    """Nothing is to be done now."""

    why: str


class Begin(msgspec.Struct, frozen=True):
    """Make this attempt; one that has begun before is taken up again."""

    attempt: int


class Note(msgspec.Struct, frozen=True):
    """Write down that this run makes the attempt."""

    attempt: int
    run: str


class Settle(msgspec.Struct, frozen=True):
    """Write down how an attempt has ended."""

    outcome: Outcome
    attempt: int
    run: str = ""
    detail: str = ""


Step = Wait | Begin | Note | Settle
Line = tuple[str, Fact, str]  # subject, fact, and the key under which it is written once


def is_automatic(decision: Decision) -> bool:
    """Was it decided, and is it carried out, without any person?"""
    return decision.is_by_automation and decision.approved_by is None


def next_step(
    decision: Decision,
    runs: Sequence[KnownRun],
    *,
    attempts: int,
    now: datetime,
    held: str | None = None,
    released: str | None = None,
    on_trial: bool = False,
) -> Step:
    """What to do next about a decision.

    Parameters
    ----------
    runs
        Those that were asked for by this decision, oldest first; none for what needs no run.
    attempts
        How often a remedy that fails is tried.
    now
        By the wall clock.
    held
        Why nothing may begin now, see `held_back`; what has begun is ended all the same.
    released
        Why another version answers that one of these runs has released; None where none does.
    on_trial
        It does not answer yet, and is tried beside the champion.
    """
    if decision.is_final:
        return Wait("it is over")
    if decision.waits_for_approval:
        return Wait("it waits for approval")
    if decision.outcome == "failed" and decision.attempts >= attempts:
        return Settle("abandoned", decision.attempts, "", decision.detail)
    current = decision.attempts if decision.running else decision.attempts + 1
    if decision.what.action != "retrain":
        return Begin(current) if decision.running or held is None else Wait(held)
    mine = [run for run in runs if run.attempt == current]
    if mine:
        return _after_run(decision, mine[-1], attempts, released, on_trial=on_trial)
    if decision.running:
        if now - decision.at <= RUN_APPEARS_WITHIN:
            return Wait("its run has not appeared yet")
        lost = f"no run of attempt {current} is known"
        return Settle("failed" if current < attempts else "abandoned", current, "", lost)
    return Begin(current) if held is None else Wait(held)


def _after_run(decision: Decision, run: KnownRun, attempts: int, released: str | None, *, on_trial: bool) -> Step:
    if run.state == "under way":
        noted = decision.running and run.id in decision.runs
        return Wait(f"run {run.id} is under way") if noted else Note(run.attempt, run.id)
    outcome, detail = run_outcome(run, decision.what.details.get("trigger", ""), released, on_trial=on_trial)
    if outcome == "failed" and run.attempt >= attempts:
        outcome = "abandoned"
    return Settle(outcome, run.attempt, run.id, detail)


def run_outcome(run: KnownRun, trigger: str, released: str | None, *, on_trial: bool = False) -> tuple[Outcome, str]:
    """What a lifecycle run that has ended came to, and why. One that a person has cancelled is not tried again.

    A version on trial mitigates nothing yet: the end of its rollout tells.

    A run that died after it had released another version has failed: the next attempt finds the release and finishes it.
    """
    if run.state == "succeeded":
        if released is None:
            return "unchanged", "the champion is that very model"
        return "on trial" if on_trial else "done", released
    if run.refused_by:
        why = "; ".join(f"{gate.name}: {gate.why}" for gate in run.refused_by)
        return ("unchanged" if _not_better(run, trigger) else "refused"), why
    if run.state == "cancelled":
        return "abandoned", "the run was cancelled"
    return "failed", run.error or "the run failed"


def _not_better(run: KnownRun, trigger: str) -> bool:
    """Was a candidate that drift alone asked for held back only because it is not better than the champion?"""
    return trigger == DRIFT and all(gate.name.endswith("_not_worse_than_champion") for gate in run.refused_by)


def held_back(record: Record, decision: Decision) -> str | None:
    """Why a decision may not begin now; None when it may. A person's own wishes are held back by no freeze.

    Trainings come one after the other, and none begins while anything else is done to the model; what takes seconds, such as a
    rollback, waits for no training.
    """
    if (reason := halted(record, decision)) is not None or decision.what.action != "retrain":
        return reason
    for other in record.open_decisions:
        earlier = other.what.action == "retrain" and other.at <= decision.at and other.may_start
        if other.id != decision.id and (other.running or (earlier and halted(record, other) is None)):
            return f"{other.what.action} of {other.id} comes first"
    return None


def halted(record: Record, decision: Decision) -> str | None:
    """Why nothing is done to the model by itself now; None where it is, or where a person has asked."""
    if not decision.is_by_automation:
        return None
    if record.retired is not None:
        return f"the model is out of service: {record.retired}"
    return None if record.frozen is None else f"automation is frozen: {record.frozen}"


def settled(record: Record, decision: Decision, end: Settle) -> list[Line]:
    """The lines that the end of an attempt adds to the ledger: all of them, or none."""
    lines: list[Line] = [
        (decision.id, Ended(end.outcome, end.attempt, end.run, end.detail), f"{decision.id} ended {end.attempt}")
    ]
    what = decision.what
    if end.outcome == "done":
        helps = what.action != "freeze" or "version" in what.details
        for one in (one for one in record.open_incidents if one.id in what.incidents):
            if one.mitigated_at is None and helps:
                lines.append((one.id, Mitigated(end.detail, decision.id), f"{one.id} mitigated"))
            if what.action == "roll back" and one.cause == SERVICE:
                lines.append((one.id, Resolved(end.detail), f"{one.id} resolved"))
        lines += _resolved(record, GATES if what.action == "retrain" else f"{RUNS}{what.action}", end.detail)
        if what.action == "freeze":
            lines.append((record.model, Frozen(what.reason), f"{decision.id} frozen"))
    if end.outcome == "refused" and what.action == "retrain":
        lines.append((record.model, Refused(None, end.detail), f"{decision.id} refused"))
        lines.append(found(record, GATES, f"a candidate was refused: {end.detail}", "warning", decision.id))
    if end.outcome == "abandoned" and what.action != "retrain":
        title = f"gave up to {what.action} after {end.attempt} attempts: {end.detail}"
        lines.append(found(record, f"{RUNS}{what.action}", title, "critical", decision.id))
    return lines


def of_runs(record: Record, job: str, runs: Sequence[KnownRun]) -> list[Line]:
    """Lines on the runs of a job that fail for another reason than a gate: one incident, over when a run has worked again.

    Parameters
    ----------
    job
        "lifecycle" or "monitoring".
    runs
        Those that have ended, newest first.
    """
    cause = f"{RUNS}{job}"
    since = takewhile(lambda run: not run.has_worked, runs)
    failures = [run for run in since if run.state == "failed"][::-1]
    known = record.incident_of(cause)
    if not failures:
        worked = next((run for run in runs if run.has_worked), None)
        return [] if known is None or worked is None else _resolved(record, cause, f"run {worked.id} has worked")
    lines: list[Line] = []
    for run in failures if known is None else failures[known.times_found :]:
        title = f"run {run.id} of {record.model}_{job} failed: {run.error or 'see its log'}"
        opened = lines[0][0] if lines and known is None else None
        if opened is None:
            lines.append(found(record, cause, title, "warning", run.id))
        else:
            lines.append((opened, Joined("warning", None, (title,)), f"{opened} found by {run.id}"))
    return lines


def found(
    record: Record,
    cause: str,
    title: str,
    severity: Severity,
    by: str,
    *,
    window: str | None = None,
    first_bad_at: datetime | None = None,
) -> Line:
    """The line that opens an incident, or joins the one that is open. `by` is what has found it, which finds it once."""
    known = record.incident_of(cause)
    if known is not None:
        return known.id, Joined(severity, window, (title,)), f"{known.id} found by {by}"
    count = sum(one.cause == cause for one in record.incidents)
    name = f"{record.model}/{cause}/{count + 1}"
    return name, Opened(cause, title, severity, window, None, first_bad_at, (title,)), name


def _resolved(record: Record, cause: str, why: str) -> list[Line]:
    known = record.incident_of(cause)
    return [] if known is None else [(known.id, Resolved(why), f"{known.id} resolved")]
