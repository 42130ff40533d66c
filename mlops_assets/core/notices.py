"""What people must hear of when a model's record changes. Keeping and sending notices is done in `stores` and `operations`."""

from collections.abc import Iterator

import msgspec

from mlops_assets.core.ledger import SEVERITIES, Decision, Incident, Record, Severity


class Notice(msgspec.Struct, frozen=True):
    """One message to people. `key` names the step that it tells of, which is told once."""

    key: str
    model: str
    title: str
    body: str
    severity: Severity


def notices_for(before: Record, after: Record) -> tuple[Notice, ...]:
    """What to say of the way from one record of a model to a later one.

    Of an incident: that it was opened, became graver, was mitigated, was resolved; each once, however often its cause is found
    again, and nothing while it is of severity "info". Of a decision: that it waits for approval, that it calls a person
    ("escalate"), that it was abandoned. Of the model: that its automation was frozen.
    """
    incidents = {one.id: one for one in before.incidents}
    decisions = {one.id: one for one in before.decisions}
    notices: list[Notice] = []
    for incident in after.incidents:
        earlier = incidents.get(incident.id)
        if incident is not earlier and incident.severity != "info":
            notices += _of_incident(earlier, incident)
    for decision in after.decisions:
        former = decisions.get(decision.id)
        if decision is not former:
            notices += _of_decision(former, decision)
    if after.frozen is not None and before.frozen_at != after.frozen_at:
        since = "" if after.frozen_at is None else after.frozen_at.isoformat()
        body = f"Nothing is done to {after.model} by itself until it is thawed.\nReason: {after.frozen}"
        title = f"{after.model}: automation is frozen"
        notices.append(Notice(f"frozen:{after.model}:{since}", after.model, title, body, "critical"))
    return tuple(notices)


def _of_incident(before: Incident | None, after: Incident) -> Iterator[Notice]:
    # An incident nobody was told of, because it did not matter yet, is new to people when it begins to.
    untold = before is None or before.severity == "info"
    if untold:
        yield _incident_notice(after, "opened", after.title, after.severity)
    elif before is not None and SEVERITIES.index(after.severity) > SEVERITIES.index(before.severity):
        yield _incident_notice(
            after, f"raised to {after.severity}", f"now {after.severity}: {after.title}", after.severity
        )
    if after.mitigated_at is not None and (before is None or before.mitigated_at is None):
        yield _incident_notice(after, "mitigated", f"mitigated: {after.title}", "info")
    if after.resolved_at is not None and (before is None or before.resolved_at is None):
        yield _incident_notice(after, "resolved", f"resolved: {after.title}", "info")


def _incident_notice(one: Incident, step: str, title: str, severity: Severity) -> Notice:
    lines = [
        f"Incident {one.id} of {one.model}, severity {one.severity}, cause {one.cause}.",
        f"Found {one.times_found} times, first at {one.detected_at.isoformat()}.",
        *(f"Evidence: {line}" for line in one.evidence),
    ]
    if step == "mitigated":
        lines.append(f"It harms no longer: {one.mitigated_by}")
    if step == "resolved":
        lines.append(f"Its cause is gone: {one.resolution}")
    return Notice(
        f"incident:{one.model}:{one.id}:{step}", one.model, f"{one.model}: {title}", "\n".join(lines), severity
    )


def _of_decision(before: Decision | None, after: Decision) -> Iterator[Notice]:
    action, reason = after.what.action, after.what.reason
    if after.waits_for_approval and before is None:
        how = (
            f"Answer with: mlops-assets approve {after.id} --reason ..., or mlops-assets reject {after.id} --reason ..."
        )
        yield _decision_notice(after, "approval", f"may it {action}?", f"{reason}\n{how}", "warning")
    if action == "escalate" and before is None and after.what.mode != "off":
        yield _decision_notice(after, "escalated", "a person is needed", reason, "critical")
    if after.outcome == "abandoned" and (before is None or before.outcome != "abandoned"):
        title = f"gave up after {after.attempts} attempts to {action}"
        yield _decision_notice(after, "abandoned", title, f"{reason}\nLast attempt: {after.detail}", "critical")


def _decision_notice(one: Decision, step: str, title: str, what: str, severity: Severity) -> Notice:
    body = f"Decision {one.id} of {one.model}: {one.what.action}.\n{what}"
    return Notice(f"decision:{one.model}:{one.id}:{step}", one.model, f"{one.model}: {title}", body, severity)
