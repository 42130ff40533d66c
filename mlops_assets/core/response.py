"""What to do about a model, and why: from the verdicts on its windows, what was done before, and the declared policy.

One pure function, the same for live traffic and for replays. Carrying decisions out is the business of `operations` and `sensors`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from mlops_assets.core.ledger import (
    SEVERITIES,
    Action,
    Decided,
    Decision,
    Entry,
    Fact,
    Incident,
    Joined,
    Mitigated,
    Mode,
    Opened,
    Record,
    Resolved,
    Severity,
    fold,
)
from mlops_assets.core.monitoring.health import DataHealth, Former, ModelHealth
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.spec import ModelSpec, format_duration

A_DAY = timedelta(hours=24)
LOOK_BACK = 60  # windows that a situation holds, so that incidents can be closed and confirmed
FEED, DRIFT, PERFORMANCE, GATES, TRAFFIC = "feed:", "drift", "performance", "gates", "traffic"
SERVICE, RUNS, SIGNS = "service", "run:", "monitor:"


class Champion(msgspec.Struct, frozen=True):
    """The version that answers: what it was trained on, and which features it is made to take for missing."""

    version: int
    trained_until: datetime
    training_rows: int
    masked: tuple[str, ...] = ()


class Signal(msgspec.Struct, frozen=True):
    """One thing that the monitor says of itself or of what feeds it."""

    trouble: str
    reason: str
    grave: bool


class Situation(msgspec.Struct, frozen=True):
    """All that a decision may look at, as it was known at `now`, the end of the newest sealed window.

    Attributes
    ----------
    data, model
        The verdicts on the last windows up to `window`, oldest first.
    fresh_rows
        Labelled rows, by sound feeds, from after the champion's training.
    rivals
        Registered versions asked again on the labelled rows of the last windows, the best first; None while nobody has asked.
    """

    window: str
    now: datetime
    champion: Champion | None
    data: tuple[DataHealth, ...]
    model: tuple[ModelHealth, ...]
    fresh_rows: int
    rivals: tuple[Former, ...] | None = None
    signals: tuple[Signal, ...] = ()


class Response(msgspec.Struct, frozen=True):
    """What follows: facts for the ledger, each with its incident, and the decision. `asks_for_rivals` wants to be asked again."""

    facts: tuple[tuple[str, Fact], ...]
    decision: Decided
    decision_id: str
    asks_for_rivals: bool = False


class Finding(msgspec.Struct, frozen=True):
    """Something is wrong, and what is probably the cause."""

    cause: str
    title: str
    severity: Severity
    window: str
    began: datetime
    evidence: tuple[str, ...]
    features: tuple[str, ...] = ()


class _Remedy(msgspec.Struct, frozen=True):
    action: Action
    reason: str
    causes: tuple[str, ...] = ()
    details: dict[str, str] = {}
    evidence: tuple[str, ...] = ()
    wants_rivals: bool = False


def respond(spec: ModelSpec, seen: Situation, record: Record) -> Response:
    """Find what is wrong, open, join and close incidents accordingly, and choose the one thing to do now.

    The same situation and record give the same response, ids included. Nothing but `decision` asks for anything to be done.
    """
    findings = find(spec, seen, record)
    facts, after = _kept(spec, seen, record, findings)
    remedy = _remedy(spec, seen, after, findings)
    known = {one.cause: one.id for one in after.open_incidents}
    incidents = tuple(known[cause] for cause in remedy.causes if cause in known)
    decision = Decided(
        action=remedy.action,
        mode=_mode(spec, remedy.action),
        reason=remedy.reason,
        window=seen.window,
        incidents=incidents,
        evidence=remedy.evidence or tuple(line for one in findings for line in one.evidence),
        details=remedy.details,
        policy=policy_of(spec),
        inputs=_digest(seen.window, *map(_stamp, seen.data), *map(_stamp, seen.model), str(seen.champion)),
    )
    if remedy.action == "impute" and not decision.asks_for_work:
        facts += [(one, Mitigated("the service imputes it as declared")) for one in incidents]
    # what is looked at again is not decided again: the id leaves out how things are worded
    parts = (spec.name, seen.window, remedy.action, *incidents, *sorted(map(str, remedy.details.items())))
    return Response(tuple(facts), decision, f"d-{_digest(*parts)}", remedy.wants_rivals)


def policy_of(spec: ModelSpec) -> str:
    """Version of the declared policy: a digest of all that decisions depend on."""
    declared = (spec.response, spec.monitoring, spec.imputation)
    return _digest(*(part.model_dump_json() for part in declared))


def find(spec: ModelSpec, seen: Situation, record: Record) -> list[Finding]:
    """What is wrong in the newest windows, the gravest first."""
    found = [*_of_data(spec, seen), *_of_performance(spec, seen), *_of_signals(seen)]
    return sorted(found, key=lambda one: -SEVERITIES.index(one.severity))


def _of_data(spec: ModelSpec, seen: Situation) -> list[Finding]:
    if not seen.data or seen.data[-1].window != seen.window:
        return []
    newest = seen.data[-1]
    severity: Severity = "critical" if newest.verdict == "failed" else "warning"
    if newest.verdict == "failed" and not newest.rows:
        return [_finding(TRAFFIC, newest.reasons[0], severity, newest)]
    found = []
    feeds: dict[str, list[str]] = {}
    for feature in newest.broken:
        feeds.setdefault(spec.feed_of(feature), []).append(feature)
    for feed, features in feeds.items():
        lines = [line for line in newest.reasons if any(line.startswith(f"{one} ") for one in features)]
        title = f"the feed {feed} is broken: {', '.join(features)}"
        found.append(_finding(f"{FEED}{feed}", title, severity, newest, lines, features))
    if drifted := newest.drifted:
        grave = is_confirmed_drift(spec, seen)
        title = f"the inputs have drifted: {', '.join(drifted)}"
        lines = [line for line in newest.reasons if any(line.startswith(f"{one} ") for one in drifted)]
        found.append(_finding(DRIFT, title, "warning" if grave else "info", newest, lines, drifted))
    return found


def is_confirmed_drift(spec: ModelSpec, seen: Situation) -> bool:
    """Is critical drift of an important feature there in the newest window and often enough before it?"""
    rules, windows = spec.monitoring.confirm, Windows.of(spec)
    if not seen.data or seen.champion is None:
        return False
    last = set(windows.last(seen.data[-1].window, rules.of))
    mine = [one for one in seen.data if one.window in last and one.version == seen.champion.version]
    bad = [one for one in mine if _critical(one)]
    return bool(bad) and bad[-1] is mine[-1] and len(bad) >= rules.alarms


def _critical(health: DataHealth) -> bool:
    if health.drift is None:
        return False
    return any(one.feature in health.drifted and one.severity == "critical" for one in health.drift.features)


def _of_performance(spec: ModelSpec, seen: Situation) -> list[Finding]:
    newest = _newest_labelled(seen)
    if newest is None or newest.verdict not in ("unhealthy", "failed") or not newest.decayed:
        return []
    title = f"version {newest.version} has decayed: {newest.reasons[0]}"
    return [_finding(PERFORMANCE, title, "critical", newest, newest.reasons)]


def _newest_labelled(seen: Situation) -> ModelHealth | None:
    """The newest window of the champion whose labels may decide."""
    mine = [one for one in _labelled(seen) if seen.champion is not None and one.version == seen.champion.version]
    return mine[-1] if mine else None


def _labelled(seen: Situation) -> list[ModelHealth]:
    return [one for one in seen.model if one.performance is not None]


def _of_signals(seen: Situation) -> list[Finding]:
    return [
        Finding(
            f"{SIGNS}{one.trouble}",
            one.reason,
            "critical" if one.grave else "warning",
            seen.window,
            seen.now,
            (one.reason,),
        )
        for one in seen.signals
    ]


def _finding(
    cause: str,
    title: str,
    severity: Severity,
    health: DataHealth | ModelHealth,
    evidence: Iterable[str] = (),
    features: Iterable[str] = (),
) -> Finding:
    return Finding(cause, title, severity, health.window, health.begin, tuple(evidence) or (title,), tuple(features))


def _kept(
    spec: ModelSpec, seen: Situation, record: Record, findings: Sequence[Finding]
) -> tuple[list[tuple[str, Fact]], Record]:
    """Facts that open, join and close incidents, and the record with them."""
    facts: list[tuple[str, Fact]] = []
    for one in findings:
        known = record.incident_of(one.cause)
        if known is None:
            count = sum(other.cause == one.cause for other in record.incidents)
            name = f"{spec.name}/{one.cause}/{count + 1}"
            facts.append((name, Opened(one.cause, one.title, one.severity, one.window, one.began, None, one.evidence)))
        elif one.window not in known.windows:
            facts.append((known.id, Joined(one.severity, one.window, one.evidence)))
    found = {one.cause for one in findings}
    for incident in record.open_incidents:
        if incident.cause not in found and (why := _is_over(spec, seen, incident)):
            facts.append((incident.id, Resolved(why, seen.window)))
    entries = [Entry(spec.name, subject, fact, "core", seen.now, seen.now) for subject, fact in facts]
    return facts, fold(spec.name, entries, record)


def _is_over(spec: ModelSpec, seen: Situation, incident: Incident) -> str | None:
    """Why an incident that is not found any more is over; None while that is not sure."""
    count, cause = spec.response.close_after, incident.cause
    last = max(incident.windows, default="")
    if cause.startswith(SIGNS):
        return "it is as it should be again"
    if cause.startswith(FEED) or cause in (DRIFT, TRAFFIC):
        good = [one for one in seen.data if one.window > last and one.verdict != "insufficient data"][-count:]
        over = len(good) == count and not any(_shows(spec, one, cause) for one in good)
        return f"not found in {count} windows in a row, the last {good[-1].window}" if over else None
    if cause == PERFORMANCE and seen.champion is not None:
        mine = [one for one in _labelled(seen) if one.version == seen.champion.version and one.window > last][-count:]
        over = len(mine) == count and not any(one.decayed for one in mine)
        return (
            f"version {seen.champion.version} is as good as it should be in {count} windows in a row" if over else None
        )
    return None


def _shows(spec: ModelSpec, health: DataHealth, cause: str) -> bool:
    if cause == TRAFFIC:
        return health.verdict == "failed" and not health.rows
    if cause == DRIFT:
        return bool(health.drifted)
    return any(f"{FEED}{spec.feed_of(one)}" == cause for one in health.broken)


def _remedy(spec: ModelSpec, seen: Situation, record: Record, findings: Sequence[Finding]) -> _Remedy:
    """The one thing to do now; the order of the rules is that of the table in the documentation."""
    causes = tuple(one.cause for one in findings)
    if record.retired is not None:
        return _Remedy("none", f"out of service: {record.retired}", causes)
    if record.frozen is not None:
        return _Remedy("none", f"automation is frozen: {record.frozen}", causes)
    waiting = next(iter(record.open_decisions), None)
    if waiting is not None:
        return _Remedy("none", f"{waiting.what.action} of {waiting.id} is not over yet", causes)
    by_cause = {one.cause: one for one in findings}
    rules = (
        _too_many(spec, seen, record),
        _against_decay(spec, seen, record, by_cause),
        _against_bad_values(spec, seen, record, findings),
        _without_a_feed(spec, seen, record, findings),
        _against_drift(spec, seen, record, by_cause),
    )
    remedy = next((one for one in rules if one is not None), None)
    if remedy is not None:
        return remedy
    if any(one.severity != "info" for one in findings):
        return _Remedy("alert", "; ".join(one.title for one in findings if one.severity != "info"), causes)
    if findings:
        return _Remedy("observe", "; ".join(one.title for one in findings), causes)
    return _Remedy("none", "nothing is wrong")


def _too_many(spec: ModelSpec, seen: Situation, record: Record) -> _Remedy | None:
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


def _freeze(
    spec: ModelSpec, seen: Situation, record: Record, why: str, incidents: Sequence[Incident]
) -> _Remedy | None:
    if _mode(spec, "freeze") == "off":
        return None
    details = {}
    good = last_good(record)
    if good is not None and seen.champion is not None and good != seen.champion.version:
        details["version"] = str(good)
    return _Remedy("freeze", why, tuple(one.cause for one in incidents), details)


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


def _against_decay(spec: ModelSpec, seen: Situation, record: Record, findings: dict[str, Finding]) -> _Remedy | None:
    finding, newest = findings.get(PERFORMANCE), _newest_labelled(seen)
    if finding is None or newest is None or seen.champion is None:
        return None
    causes, evidence = (PERFORMANCE,), finding.evidence
    if suspects := _broken_in(seen, newest.window):
        why = f"{', '.join(suspects)} came broken in the very window that is worse: the feed is the suspect, not the model"
        return _Remedy("alert", why, tuple(findings), evidence=evidence)
    if newest.former is not None and newest.former.is_better:
        rollback = _roll_back(spec, seen, record, newest.former, evidence)
        if rollback is not None:
            return rollback
    lacking = _not_enough(spec, seen)
    if lacking is None:
        return _retrain(spec, seen, record, PERFORMANCE, causes, finding.title, evidence)
    if seen.rivals is None:
        return _Remedy("alert", f"{finding.title}; {lacking}", causes, evidence=evidence, wants_rivals=True)
    for rival in seen.rivals:
        if rival.is_better and (remedy := _roll_back(spec, seen, record, rival, evidence)) is not None:
            return remedy
    return _Remedy(
        "alert", f"{finding.title}; {lacking}, and no registered version is better: waiting for data", causes
    )


def _broken_in(seen: Situation, window: str) -> tuple[str, ...]:
    return next((one.broken for one in seen.data if one.window == window), ())


def _roll_back(
    spec: ModelSpec, seen: Situation, record: Record, rival: Former, evidence: tuple[str, ...]
) -> _Remedy | None:
    """Back to a better version; or freeze, where going back has been tried in this cooldown already."""
    mode = _mode(spec, "roll back")
    tried = [one for one in record.decisions if one.what.action == "roll back"]
    failed = {one.what.details.get("version") for one in tried if one.is_final and one.outcome != "done"}
    if mode == "off" or str(rival.version) in failed:
        return None
    pair = rival.comparison
    why = (
        f"version {rival.version} is better on the same {pair.rows} logged rows: {pair.metric} {pair.champion:.4g} against "
        f"{pair.candidate:.4g}"
    )
    done = [one for one in tried if one.outcome == "done" and _since(one, seen.now) < spec.response.cooldown]
    if done and done[-1].now is not None and (record.thawed is None or done[-1].now > record.thawed):
        incidents = [one for one in record.open_incidents if one.cause == PERFORMANCE]
        frozen = _freeze(spec, seen, record, f"a second rollback within the cooldown would be needed: {why}", incidents)
        if frozen is not None:
            return frozen
    return _Remedy("roll back", why, (PERFORMANCE,), {"version": str(rival.version)}, (*evidence, why))


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
) -> _Remedy | None:
    """Train, unless it is too early or was refused too often; None where training is off."""
    if _mode(spec, "retrain") == "off":
        return None
    refused = _refused_in_a_row(record)
    if refused >= spec.response.max_refusals:
        what = f"{refused} candidates in a row were refused: a person must look at the data, the features or the gates"
        return _Remedy("escalate", what, (*causes, GATES) if record.incident_of(GATES) else causes, evidence=evidence)
    rest = spec.response.cooldown * _patience(record, trigger) if not without else timedelta(0)
    last = _last_training(record, trigger)
    if last is not None and _since(last, seen.now) < rest:
        until = (last.now or last.at) + rest
        return _Remedy("alert", f"{why}; the next training may begin on {until:%Y-%m-%d}", causes, evidence=evidence)
    details = {"as_of": seen.now.isoformat(), "trigger": trigger}
    if refused and spec.training.window is not None:
        longer = spec.training.window * spec.response.widen_by**refused
        details["window"] = format_duration(timedelta(days=round(longer / timedelta(days=1), 1)))
    if without:
        details["without"] = ",".join(without)
    return _Remedy("retrain", why, causes, details, evidence)


def _trainings(record: Record) -> list[Decision]:
    return [one for one in record.decisions if one.what.action == "retrain" and one.is_final]


def _last_training(record: Record, trigger: str) -> Decision | None:
    """The last training that counts: for decay, those that drift alone asked for and that changed nothing do not."""
    counted = [one for one in _trainings(record) if trigger == DRIFT or one.outcome != "unchanged"]
    return counted[-1] if counted else None


def _patience(record: Record, trigger: str) -> int:
    """How many cooldowns to wait: twice as many for each candidate in a row that drift asked for and that changed nothing."""
    if trigger != DRIFT:
        return 1
    fruitless = 0
    for one in reversed(_trainings(record)):
        if one.outcome != "unchanged":
            break
        fruitless += 1
    return int(2 ** min(fruitless, 3))


def _refused_in_a_row(record: Record) -> int:
    count = 0
    for one in reversed(_trainings(record)):
        if one.outcome == "unchanged":
            continue
        if one.outcome != "refused" or (record.thawed is not None and (one.now or one.at) <= record.thawed):
            break
        count += 1
    return count


def _since(decision: Decision, now: datetime) -> timedelta:
    return now - (decision.now or decision.at)


def _against_bad_values(
    spec: ModelSpec, seen: Situation, record: Record, findings: Sequence[Finding]
) -> _Remedy | None:
    """Broken features are imputed: missing ones by the service itself, bad values by taking them for missing."""
    if seen.champion is None or _mode(spec, "impute") == "off":
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
        return _Remedy("impute", what, causes, {"masked": ",".join(sorted(masked))})
    fresh = [one for one in feeds if (incident := record.incident_of(one.cause)) and incident.mitigated_at is None]
    if fresh and not masked:
        why = "; ".join(one.title for one in fresh)
        return _Remedy("impute", f"{why}; what is missing is imputed as declared", tuple(one.cause for one in fresh))
    return None


def _is_missing(spec: ModelSpec, seen: Situation, feature: str) -> bool:
    report = seen.data[-1].drift
    rates = {} if report is None else {one.feature: one.missing_rate for one in report.features}
    return rates.get(feature, 1.0) > spec.imputation.alarm_above


def _without_a_feed(spec: ModelSpec, seen: Situation, record: Record, findings: Sequence[Finding]) -> _Remedy | None:
    for one in findings:
        incident = record.incident_of(one.cause)
        if not one.cause.startswith(FEED) or incident is None:
            continue
        began = incident.began or incident.detected or incident.detected_at
        done = any(incident.id in decision.what.incidents for decision in _trainings(record))
        if seen.now - began > spec.response.feed_patience and not done:
            why = f"{one.title}, for more than {format_duration(spec.response.feed_patience)}: training goes on without them"
            return _retrain(spec, seen, record, FEED, (one.cause,), why, one.evidence, one.features)
    return None


def _against_drift(spec: ModelSpec, seen: Situation, record: Record, findings: dict[str, Finding]) -> _Remedy | None:
    finding = findings.get(DRIFT)
    if finding is None or spec.response.on_drift == "alert" or not is_confirmed_drift(spec, seen):
        return None
    if spec.response.on_drift == "observe":
        return _Remedy("observe", finding.title, (DRIFT,), evidence=finding.evidence)
    if seen.champion is None or seen.data[-1].broken or _not_enough(spec, seen) is not None:
        return None
    return _retrain(
        spec, seen, record, DRIFT, (DRIFT,), f"{finding.title}, critically and again and again", finding.evidence
    )


def _mode(spec: ModelSpec, action: Action) -> Mode:
    modes = spec.response.actions
    by_action: dict[Action, Mode] = {
        "impute": modes.impute,
        "retrain": modes.retrain,
        "roll back": modes.rollback,
        "fall back": modes.fallback,
        "freeze": modes.freeze,
    }
    return by_action.get(action, "auto")


def _stamp(health: DataHealth | ModelHealth) -> str:
    return f"{health.window} {health.version} {health.verdict} {'; '.join(health.reasons)}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
