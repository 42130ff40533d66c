"""The one thing to do now: the rules of the policy, in their order."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from mlops_assets.core.ledger import Action, Decision, Incident, Mode, Record
from mlops_assets.core.monitoring.health import Former
from mlops_assets.core.response.findings import is_confirmed_drift, newest_labelled
from mlops_assets.core.response.situation import DRIFT, FEED, GATES, PERFORMANCE, SERVICE, Finding, Situation
from mlops_assets.core.response.trainings import (
    held_by_trial,
    last_training,
    refused_in_a_row,
    rest_before_next,
    since,
    trainings,
)
from mlops_assets.core.spec import ModelSpec, format_duration

A_DAY = timedelta(hours=24)
_TO_CONSTANT, _TO_CHAMPION = {"to": "constant"}, {"to": "champion"}


class Remedy(msgspec.Struct, frozen=True):
    """An action with its reason, the causes that it is about, and how it is to be done."""

    action: Action
    reason: str
    causes: tuple[str, ...] = ()
    details: dict[str, str] = {}
    evidence: tuple[str, ...] = ()
    wants_rivals: bool = False


def choose(spec: ModelSpec, seen: Situation, record: Record, findings: Sequence[Finding]) -> Remedy:
    """The one thing to do now; the order of the rules is that of the table in the documentation."""
    causes = tuple(one.cause for one in findings)
    if record.retired is not None:
        return Remedy("none", f"out of service: {record.retired}", causes)
    if record.frozen is not None:
        return Remedy("none", f"automation is frozen: {record.frozen}", causes)
    waiting = next((one for one in record.open_decisions if not rests(spec, record, seen.on_trial, one)), None)
    if waiting is not None:
        return Remedy("none", f"{waiting.what.action} of {waiting.id} is not over yet", causes)
    by_cause = {one.cause: one for one in findings}
    rules = (
        _too_many(spec, seen, record),
        _against_decay(spec, seen, record, findings),
        _from_the_constant(seen, record),
        _against_bad_values(spec, seen, record, findings),
        _without_a_feed(spec, seen, record, findings),
        _against_drift(spec, seen, record, by_cause),
    )
    remedy = next((one for one in rules if one is not None), None)
    if remedy is not None:
        return remedy
    if any(one.severity != "info" for one in findings):
        return Remedy("alert", "; ".join(one.title for one in findings if one.severity != "info"), causes)
    if findings:
        return Remedy("observe", "; ".join(one.title for one in findings), causes)
    return Remedy("none", "nothing is wrong")


def rests(spec: ModelSpec, record: Record, on_trial: int | None, decision: Decision) -> bool:
    """Is this a training that waits for the end of a trial before it begins? Meanwhile it keeps nobody from anything else.

    One that has begun does not rest: what is on trial may be its own candidate.
    """
    if decision.what.action != "retrain" or decision.attempts or not decision.is_by_automation:
        return False
    return not decision.is_final and held_by_trial(spec, record, on_trial) is not None


def _too_many(spec: ModelSpec, seen: Situation, record: Record) -> Remedy | None:
    since = record.thawed or datetime.min.replace(tzinfo=seen.now.tzinfo)
    recent = [
        one
        for one in record.incidents
        if one.severity == "critical"
        and seen.now - A_DAY < (one.detected or one.detected_at) <= seen.now
        and (one.detected or one.detected_at) > since
    ]
    if len(recent) < spec.response.freeze_after:
        return None
    what = ", ".join(one.cause for one in recent)
    return _freeze(spec, seen, record, f"{len(recent)} critical incidents within 24 hours: {what}", recent)


def _freeze(spec: ModelSpec, seen: Situation, record: Record, why: str, incidents: Sequence[Incident]) -> Remedy | None:
    if mode_of(spec, "freeze") == "off":
        return None
    details: dict[str, str] = {}
    good = last_good(record)
    if good is not None and seen.champion is not None and good != seen.champion.version:
        details |= {"version": str(good), "instead_of": str(seen.champion.version)}
    return Remedy("freeze", why, tuple(one.cause for one in incidents), details)


def last_good(record: Record) -> int | None:
    """The version that served last without a critical incident of its own making, the newest one aside."""
    served = [(one.now or one.at, one.released.version) for one in record.releases]
    bad = {
        version
        for incident in record.incidents
        if incident.severity == "critical" and incident.cause in (PERFORMANCE, SERVICE)
        for version in [_version_at(served, incident.began or incident.detected or incident.detected_at)]
    }
    return next((version for _, version in reversed(served[:-1]) if version not in bad), None)


def _version_at(served: Sequence[tuple[datetime, int]], moment: datetime) -> int | None:
    return next((version for since, version in reversed(served) if since <= moment), None)


def _against_decay(spec: ModelSpec, seen: Situation, record: Record, findings: Sequence[Finding]) -> Remedy | None:
    finding, newest = next((one for one in findings if one.cause == PERFORMANCE), None), newest_labelled(seen)
    if finding is None or newest is None or seen.champion is None:
        return None
    causes, evidence = (PERFORMANCE,), finding.evidence
    everything = tuple(one.cause for one in findings)
    if suspects := _broken_in(seen, newest.window):
        why = f"{', '.join(suspects)} came broken in the very window that is worse: the feed is the suspect, not the model"
        if seen.data[-1].verdict == "failed" and not seen.champion.fallen_back and mode_of(spec, "fall back") != "off":
            return Remedy("fall back", f"{why}; most of what the model leans on is gone", everything, _TO_CONSTANT)
        masking = _against_bad_values(spec, seen, record, findings)
        return masking or Remedy("alert", why, everything, evidence=evidence)
    if newest.former is not None and newest.former.is_better:
        rollback = _roll_back(spec, seen, record, newest.former, evidence)
        if rollback is not None:
            return rollback
    lacking = _not_enough(spec, seen)
    if lacking is None:
        return _retrain(spec, seen, record, PERFORMANCE, causes, finding.title, evidence)
    if seen.rivals is None:
        return Remedy("alert", f"{finding.title}; {lacking}", causes, evidence=evidence, wants_rivals=True)
    for rival in seen.rivals:
        if rival.is_better and (remedy := _roll_back(spec, seen, record, rival, evidence)) is not None:
            return remedy
    return Remedy("alert", f"{finding.title}; {lacking}, and no registered version is better: waiting for data", causes)


def _from_the_constant(seen: Situation, record: Record) -> Remedy | None:
    """The model answers again when the feeds are sound that it was taken from answering for."""
    if seen.champion is None or not seen.champion.fallen_back:
        return None
    if any(one.cause.startswith(FEED) for one in record.open_incidents):
        return None
    return Remedy("fall back", "the feeds are sound again: the model answers", (), _TO_CHAMPION)


def _broken_in(seen: Situation, window: str) -> tuple[str, ...]:
    return next((one.broken for one in seen.data if one.window == window), ())


def _roll_back(
    spec: ModelSpec, seen: Situation, record: Record, rival: Former, evidence: tuple[str, ...]
) -> Remedy | None:
    """Back to a better version; or freeze, where going back has been tried in this cooldown already."""
    mode = mode_of(spec, "roll back")
    tried = [one for one in record.decisions if one.what.action == "roll back"]
    failed = {one.what.details.get("version") for one in tried if one.is_final and one.outcome != "done"}
    if mode == "off" or str(rival.version) in failed or rival.version == seen.on_trial:
        return None
    pair = rival.comparison
    why = (
        f"version {rival.version} is better on the same {pair.rows} logged rows: {pair.metric} {pair.champion:.4g} against "
        f"{pair.candidate:.4g}"
    )
    done = [one for one in tried if one.outcome == "done" and since(one, seen.now) < spec.response.cooldown]
    if done and done[-1].now is not None and (record.thawed is None or done[-1].now > record.thawed):
        incidents = [one for one in record.open_incidents if one.cause == PERFORMANCE]
        frozen = _freeze(spec, seen, record, f"a second rollback within the cooldown would be needed: {why}", incidents)
        if frozen is not None:
            return frozen
    assert seen.champion is not None
    details = {"version": str(rival.version), "instead_of": str(seen.champion.version)}
    return Remedy("roll back", why, (PERFORMANCE,), details, (*evidence, why))


def _not_enough(spec: ModelSpec, seen: Situation) -> str | None:
    """Why there is not enough to train on; None where there is."""
    assert seen.champion is not None
    needed = max(spec.response.min_fresh_labels, round(spec.response.min_fresh_share * seen.champion.training_rows))
    if seen.fresh_rows >= needed:
        return None
    return f"{seen.fresh_rows:,} labelled rows since its training, fewer than the {needed:,} that a new one needs"


def _retrain(
    spec: ModelSpec,
    seen: Situation,
    record: Record,
    trigger: str,
    causes: tuple[str, ...],
    why: str,
    evidence: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
) -> Remedy | None:
    """Train, unless a version is on trial, or it is too early or was refused too often; None where training is off."""
    if mode_of(spec, "retrain") == "off":
        return None
    if (held := held_by_trial(spec, record, seen.on_trial)) is not None:
        return Remedy("alert", f"{why}; {held}: the next training waits for its end", causes, evidence=evidence)
    refused = refused_in_a_row(record)
    if refused >= spec.response.max_refusals:
        what = f"{refused} candidates in a row were refused: a person must look at the data, the features or the gates"
        return Remedy("alert" if _is_escalated(record) else "escalate", what, (*causes, GATES), evidence=evidence)
    rest = rest_before_next(spec, record, trigger, causes) if not without else timedelta(0)
    last = last_training(record, trigger)
    if last is not None and since(last, seen.now) < rest:
        until = (last.now or last.at) + rest
        return Remedy("alert", f"{why}; the next training may begin on {until:%Y-%m-%d}", causes, evidence=evidence)
    details = {"as_of": seen.now.isoformat(), "trigger": trigger}
    if refused and spec.training.window is not None:
        longer = spec.training.window * spec.response.widen_by**refused
        details["window"] = format_duration(timedelta(days=round(longer / timedelta(days=1), 1)))
    if without:
        details["without"] = ",".join(without)
    return Remedy("retrain", why, causes, details, evidence)


def _is_escalated(record: Record) -> bool:
    """Has a person been asked already about an incident that is still open?"""
    still = {one.id for one in record.open_incidents}
    return any(one.what.action == "escalate" and still & {*one.what.incidents} for one in record.decisions)


def _against_bad_values(spec: ModelSpec, seen: Situation, record: Record, findings: Sequence[Finding]) -> Remedy | None:
    """Broken features are imputed: missing ones by the service itself, bad values by taking them for missing."""
    if seen.champion is None or mode_of(spec, "impute") == "off":
        return None
    feeds = [one for one in findings if one.cause.startswith(FEED)]
    open_feeds = {one.cause for one in record.open_incidents if one.cause.startswith(FEED)}
    bad = {name for one in feeds for name in one.features if not _is_missing(spec, seen, name)}
    kept = {name for name in seen.champion.masked if f"{FEED}{spec.feed_of(name)}" in open_feeds}
    masked = bad | kept
    causes = tuple(one.cause for one in feeds)
    if masked != set(seen.champion.masked):
        what = (
            f"{', '.join(sorted(masked))} are taken for missing" if masked else "the values of all features count again"
        )
        return Remedy("impute", what, causes, {"masked": ",".join(sorted(masked))})
    fresh = [one for one in feeds if (incident := record.incident_of(one.cause)) and incident.mitigated_at is None]
    if fresh and not masked:
        why = "; ".join(one.title for one in fresh)
        return Remedy("impute", f"{why}; what is missing is imputed as declared", tuple(one.cause for one in fresh))
    return None


def _is_missing(spec: ModelSpec, seen: Situation, feature: str) -> bool:
    report = seen.data[-1].drift
    rates = {} if report is None else {one.feature: one.missing_rate for one in report.features}
    return rates.get(feature, 1.0) > spec.imputation.alarm_above


def _without_a_feed(spec: ModelSpec, seen: Situation, record: Record, findings: Sequence[Finding]) -> Remedy | None:
    for one in findings:
        incident = record.incident_of(one.cause)
        if not one.cause.startswith(FEED) or incident is None:
            continue
        began = incident.began or incident.detected or incident.detected_at
        done = any(incident.id in decision.what.incidents for decision in trainings(record))
        if seen.now - began > spec.response.feed_patience and not done:
            why = f"{one.title}, for more than {format_duration(spec.response.feed_patience)}: training goes on without them"
            without = tuple(name for name in one.features if spec.feature(name).nullable)
            if without:
                return _retrain(spec, seen, record, "feed", (one.cause,), why, one.evidence, without)
    return None


def _against_drift(spec: ModelSpec, seen: Situation, record: Record, findings: dict[str, Finding]) -> Remedy | None:
    finding = findings.get(DRIFT)
    if finding is None or spec.response.on_drift == "alert" or not is_confirmed_drift(spec, seen):
        return None
    if spec.response.on_drift == "observe":
        return Remedy("observe", finding.title, (DRIFT,), evidence=finding.evidence)
    if seen.champion is None or seen.data[-1].broken or _not_enough(spec, seen) is not None:
        return None
    return _retrain(
        spec, seen, record, DRIFT, (DRIFT,), f"{finding.title}, critically and again and again", finding.evidence
    )


def mode_of(spec: ModelSpec, action: Action) -> Mode:
    """By whose leave an action is carried out; what changes nothing needs nobody's."""
    modes = spec.response.actions
    by_action: dict[Action, Mode] = {
        "impute": modes.impute,
        "retrain": modes.retrain,
        "roll back": modes.rollback,
        "fall back": modes.fallback,
        "freeze": modes.freeze,
    }
    return by_action.get(action, "auto")
