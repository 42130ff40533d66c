"""What to do about a release that fails in service, or can be loaded no more: no window is waited for.

What counts as failing is told in `core/guard.py`; everything that is decided window by window in `core/response`.
"""

import hashlib
from datetime import datetime

import msgspec

from mlops_assets.core.carrying import Line, found
from mlops_assets.core.ledger import Action, Decided, Record
from mlops_assets.core.response import SERVICE, last_good, policy_of
from mlops_assets.core.response.remedies import mode_of
from mlops_assets.core.spec import ModelSpec


class BadRelease(msgspec.Struct, frozen=True):
    """A release that fails in service: why, and since when by the wall clock."""

    release: int
    version: int
    bad_since: datetime
    reason: str


def respond_to_service(
    spec: ModelSpec, bad: BadRelease, record: Record, window: str | None, now: datetime | None
) -> list[Line]:
    """Lines that open the incident and decide what to do; none when that was decided for this release already.

    Back to the last good version; where that has been done within the cooldown already, automation is frozen as well. Nothing is
    done by itself while it is frozen, or where the declaration says "off": then people are told.

    Parameters
    ----------
    window, now
        The newest window with a verdict and its end; None where there is none yet.
    """
    name = decision_on(spec, bad)
    if any(one.id == name for one in record.decisions):
        return []
    title = f"release {bad.release} (version {bad.version}) fails in service: {bad.reason}"
    incident = found(
        record, SERVICE, title, "critical", f"release {bad.release}", window=window, first_bad_at=bad.bad_since
    )
    action, details = _action(spec, bad, record, now)
    decision = Decided(
        action=action,
        mode=mode_of(spec, action),
        reason=title
        if record.frozen is None or action != "escalate"
        else f"{title}; automation is frozen: {record.frozen}",
        incidents=(incident[0],),
        evidence=(bad.reason,),
        details=details,
        policy=policy_of(spec),
        inputs=f"release {bad.release}",
    )
    return [incident, (name, decision, name)]


def decision_on(spec: ModelSpec, bad: BadRelease) -> str:
    """Id of the one decision about a release that fails."""
    return f"d-{hashlib.sha256(f'{spec.name} {SERVICE} {bad.release}'.encode()).hexdigest()[:16]}"


def _action(spec: ModelSpec, bad: BadRelease, record: Record, now: datetime | None) -> tuple[Action, dict[str, str]]:
    if record.frozen is not None:
        return "escalate", {}
    about = {"instead_of": str(bad.version)}
    recent = [
        one
        for one in record.decisions
        if one.what.action == "roll back" and one.outcome == "done" and _is_recent(spec, one.now, now, record)
    ]
    if not recent or spec.response.actions.freeze == "off":
        return "roll back", about
    good = last_good(record)
    if good is None or good == bad.version:
        return "roll back", about
    return "freeze", {"version": str(good)}


def _is_recent(spec: ModelSpec, then: datetime | None, now: datetime | None, record: Record) -> bool:
    if then is None or now is None or (record.thawed is not None and then <= record.thawed):
        return False
    return now - then < spec.response.cooldown
