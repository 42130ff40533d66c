"""What the entries say, as tables for people who ask in SQL: rows of incidents, decisions, releases, refusals and approvals.

They follow from the entries and can be made again from them; nothing in the program reads them but `audit verify`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from mlops_assets.core.ledger import Approved, Decision, Entry, Incident, Record, Refused, Rejected, Released
from mlops_assets.stores.ledger_tables import APPROVALS, DECISIONS, INCIDENTS, REFUSALS, RELEASES

VIEWS = (INCIDENTS, DECISIONS, RELEASES, REFUSALS, APPROVALS)

Cells = Mapping[str, Any]


def changed_rows(before: Record, after: Record) -> Iterable[tuple[sa.Table, Cells]]:
    """The rows of incidents and decisions that are not as they were."""
    incidents = {one.id: one for one in before.incidents}
    for incident in after.incidents:
        if incident is not incidents.get(incident.id):
            yield INCIDENTS, incident_row(incident)
    decisions = {one.id: one for one in before.decisions}
    for decision in after.decisions:
        if decision is not decisions.get(decision.id):
            yield DECISIONS, decision_row(decision)


def event_row(seq: int, entry: Entry) -> tuple[sa.Table, Cells] | None:
    """The row of a release, a refusal or an answer to a decision; None for an entry of another kind."""
    fact = entry.fact
    cells = {"seq": seq, "model": entry.model, "actor": entry.actor, "at": entry.at}
    match fact:
        case Released():
            return RELEASES, cells | {"now": entry.now} | msgspec.structs.asdict(fact)
        case Refused():
            return REFUSALS, cells | {"now": entry.now} | msgspec.structs.asdict(fact)
        case Approved() | Rejected():
            approved = isinstance(fact, Approved)
            return APPROVALS, cells | {"decision": entry.subject, "approved": approved, "reason": fact.reason}
        case _:
            return None


def incident_row(one: Incident) -> Cells:
    """An incident as a row: lists as JSON."""
    return msgspec.structs.asdict(one) | {"windows": _json(one.windows), "evidence": _json(one.evidence)}


def decision_row(one: Decision) -> Cells:
    """A decision as a row: what was decided in columns of its own, lists as JSON."""
    what = one.what
    cells = {name: value for name, value in msgspec.structs.asdict(one).items() if name != "what"}
    return cells | {
        "action": what.action,
        "mode": what.mode,
        "reason": what.reason,
        "window_key": what.window,
        "incidents": _json(what.incidents),
        "evidence": _json(what.evidence),
        "details": _json(what.details),
        "policy": what.policy,
        "inputs": what.inputs,
        "runs": _json(one.runs),
    }


def identity(table: sa.Table, cells: Cells) -> tuple[Any, ...]:
    """The primary key of a row."""
    return tuple(cells[column.name] for column in table.primary_key.columns)


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
