"""Looking at a model with the eyes of the policy: what is known of it now, what follows, and writing that down.

What follows is decided in `core/response`; carrying it out is the business of `carry_out.py`.
"""

from collections.abc import Iterable
from datetime import datetime

from mlops_assets.core.ledger import Entry, Fact, Joined, Opened, Record, Resolved
from mlops_assets.core.ledger_fold import with_entry
from mlops_assets.core.monitoring.health import Former
from mlops_assets.core.response import LOOK_BACK, Champion, Response, Signal, Situation, respond
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.readings import Readings
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.whole_bundles import whole_bundle


def situation(
    spec: ModelSpec,
    stores: Stores,
    window: str,
    *,
    readings: Readings | None = None,
    rivals: tuple[Former, ...] | None = None,
    signals: tuple[Signal, ...] = (),
) -> Situation:
    """What is known of a model at the end of a window that has been judged."""
    readings = readings or Readings(spec, stores)
    champion = champion_of(spec, stores)
    return Situation(
        window=window,
        now=readings.windows.bounds(window)[1],
        champion=champion,
        data=tuple(readings.data_history(window, LOOK_BACK)),
        model=tuple(readings.model_history(window, LOOK_BACK)),
        fresh_rows=0 if champion is None else readings.labelled_since(champion.trained_until, window),
        rivals=rivals,
        signals=signals,
        on_trial=version_on_trial(spec, stores),
    )


def champion_of(spec: ModelSpec, stores: Stores) -> Champion | None:
    """The version in service; None before the first release. Its bundle is put back from a copy where it is damaged."""
    plan = stores.releases.current(spec.name)
    if plan is None:
        return None
    manifest = whole_bundle(stores, spec.name, plan.champion).manifest
    return Champion(plan.champion.version, manifest.training_end, manifest.training_rows, plan.masked, plan.fallen_back)


def version_on_trial(spec: ModelSpec, stores: Stores) -> int | None:
    """The challenger of the plan in force."""
    plan = stores.releases.current(spec.name)
    return None if plan is None or plan.challenger is None else plan.challenger.version


def entries_of(
    spec: ModelSpec, seen: Situation, response: Response, record: Record, *, actor: str, at: datetime
) -> tuple[Entry, ...]:
    """The lines that a response adds to the ledger; none for a decision that is there already.

    The keys make each of them be taken once, however often and by whomever the same is looked at.
    """
    entries = [
        Entry(spec.name, subject, fact, actor, at, seen.now, _key(subject, fact)) for subject, fact in response.facts
    ]
    known = {one.id for one in record.decisions}
    if response.decision_id not in known:
        entries.append(
            Entry(spec.name, response.decision_id, response.decision, actor, at, seen.now, response.decision_id)
        )
    return tuple(entries)


def _key(subject: str, fact: Fact) -> str | None:
    match fact:
        case Opened():
            return subject
        case Joined(window=window):
            return f"{subject} in {window}"
        case Resolved():
            return f"{subject} resolved"
        case _:
            return None


def after(record: Record, entries: Iterable[Entry]) -> Record:
    """The record with more entries."""
    for entry in entries:
        record = with_entry(record, entry)
    return record


__all__ = ["after", "champion_of", "entries_of", "respond", "situation", "version_on_trial"]
