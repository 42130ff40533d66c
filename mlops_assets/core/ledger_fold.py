"""What follows from the facts of the ledger: one pure fold over its lines. What they are is told in `ledger.py`."""

from collections.abc import Iterable

import msgspec

from mlops_assets.core.ledger import (
    SEVERITIES,
    Acknowledged,
    Approved,
    Change,
    Decided,
    Decision,
    Ended,
    Entry,
    Frozen,
    Incident,
    Joined,
    Mitigated,
    Opened,
    Record,
    Refused,
    Rejected,
    Released,
    Resolved,
    Retired,
    Started,
    Thawed,
)
from mlops_assets.core.trials.facts import Trial, TrialBegan, TrialLooked, TrialStepped


def fold(model: str, entries: Iterable[Entry], before: Record | None = None) -> Record:
    """What follows from a model's entries, in their order.

    A fact about an incident or a decision that was never opened or made says nothing and is passed over, so that a damaged
    ledger can still be read; `audit verify` is what finds the damage.
    """
    before = before or Record(model)
    incidents = {one.id: one for one in before.incidents}
    decisions = {one.id: one for one in before.decisions}
    trials = {one.id: one for one in before.trials}
    releases, refusals = list(before.releases), list(before.refusals)
    frozen, retired, frozen_at, thawed = before.frozen, before.retired, before.frozen_at, before.thawed
    for entry in entries:
        fact = entry.fact
        match fact:
            case Opened():
                incidents[entry.subject] = _opened(entry, fact)
            case Joined() | Acknowledged() | Mitigated() | Resolved() if entry.subject in incidents:
                incidents[entry.subject] = _incident_after(incidents[entry.subject], entry, fact)
            case Decided():
                decisions[entry.subject] = Decision(entry.subject, entry.model, fact, entry.at, entry.now, entry.actor)
            case Approved() | Rejected() | Started() | Ended() if entry.subject in decisions:
                decisions[entry.subject] = _decision_after(decisions[entry.subject], entry, fact)
            case Released():
                releases.append(Change(fact, entry.at, entry.now))
                retired = None
            case TrialBegan():
                trials[entry.subject] = Trial(entry.subject, fact, entry.at, entry.now)
            case TrialLooked() | TrialStepped() if entry.subject in trials:
                trials[entry.subject] = trials[entry.subject].after(fact, entry.at, entry.now)
            case Refused():
                refusals.append((entry.now, fact))
            case Frozen():
                frozen, frozen_at = fact.reason, frozen_at or entry.at
            case Thawed():
                frozen, frozen_at, thawed = None, None, entry.now or entry.at
            case Retired():
                retired = fact.reason
            case _:
                pass
    return Record(
        model,
        tuple(incidents.values()),
        tuple(decisions.values()),
        tuple(releases),
        tuple(refusals),
        frozen,
        retired,
        frozen_at,
        thawed,
        tuple(trials.values()),
    )


def with_entry(record: Record, entry: Entry) -> Record:
    """The record with one more entry."""
    return fold(record.model, [entry], record)


def _opened(entry: Entry, fact: Opened) -> Incident:
    return Incident(
        id=entry.subject,
        model=entry.model,
        cause=fact.cause,
        title=fact.title,
        severity=fact.severity,
        detected_at=entry.at,
        detected=entry.now,
        began=fact.began,
        first_bad_at=fact.first_bad_at,
        windows=() if fact.window is None else (fact.window,),
        evidence=fact.evidence,
        level=fact.level,
    )


def _incident_after(one: Incident, entry: Entry, fact: Joined | Acknowledged | Mitigated | Resolved) -> Incident:
    replace = msgspec.structs.replace
    if isinstance(fact, Joined):
        new = fact.window is not None and fact.window not in one.windows
        return replace(
            one,
            severity=max(one.severity, fact.severity, key=SEVERITIES.index),
            windows=(*one.windows, fact.window) if new and fact.window is not None else one.windows,
            evidence=fact.evidence or one.evidence,
            times_found=one.times_found + 1,
        )
    if isinstance(fact, Acknowledged):
        return replace(one, acknowledged_at=entry.at, acknowledged_by=entry.actor)
    if isinstance(fact, Mitigated):
        return one if one.mitigated_at else replace(one, mitigated_at=entry.at, mitigated_by=fact.how)
    return replace(one, resolved_at=entry.at, resolved=entry.now, resolution=fact.reason)


def _decision_after(one: Decision, entry: Entry, fact: Approved | Rejected | Started | Ended) -> Decision:
    replace = msgspec.structs.replace
    if isinstance(fact, Approved):
        return replace(one, approved_by=entry.actor, answer=fact.reason)
    if isinstance(fact, Rejected):
        return replace(one, rejected_by=entry.actor, answer=fact.reason)
    if isinstance(fact, Started):
        runs = (*one.runs, fact.run) if fact.run and fact.run not in one.runs else one.runs
        return replace(one, attempts=fact.attempt, runs=runs, running=True, outcome=None)
    runs = (*one.runs, fact.run) if fact.run and fact.run not in one.runs else one.runs
    return replace(
        one,
        outcome=fact.outcome,
        detail=fact.detail,
        running=False,
        runs=runs,
        ended_at=entry.at,
        attempts=fact.attempt,
    )
