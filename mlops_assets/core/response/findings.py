"""What is wrong in the newest windows, and which incidents that opens, joins and closes."""

from collections.abc import Iterable, Sequence

from mlops_assets.core.ledger import SEVERITIES, Entry, Fact, Incident, Joined, Opened, Record, Resolved, Severity
from mlops_assets.core.ledger_fold import fold
from mlops_assets.core.monitoring.health import SEVERE, DataHealth, ModelHealth, judge_service
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.response.situation import (
    DRIFT,
    FEED,
    GATES,
    PERFORMANCE,
    SERVICE,
    SIGNS,
    TRAFFIC,
    Finding,
    Situation,
)
from mlops_assets.core.spec import ModelSpec


def find(spec: ModelSpec, seen: Situation, record: Record) -> list[Finding]:
    """What is wrong in the newest windows, the gravest first."""
    found = [*_of_data(spec, seen), *_of_performance(spec, seen, record), *_of_service(seen), *_of_signals(seen)]
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


def _of_performance(spec: ModelSpec, seen: Situation, record: Record) -> list[Finding]:
    newest = newest_labelled(seen)
    if newest is None or newest.performance is None:
        return []
    level = newest.performance.expected
    if newest.verdict in ("unhealthy", "failed") and newest.decayed:
        title = f"version {newest.version} has decayed: {newest.reasons[0]}"
        return [_finding(PERFORMANCE, title, "critical", newest, newest.reasons, level=level)]
    if newest.former is not None and is_worse_than_before(spec, seen):
        pair = newest.former.comparison
        title = (
            f"version {newest.version} is worse than version {newest.former.version} was: {pair.metric} {pair.candidate:.4g} "
            f"against {pair.champion:.4g} on the same {pair.rows} rows"
        )
        return [_finding(PERFORMANCE, title, "critical", newest, newest.reasons, level=pair.champion)]
    if (why := _not_back(spec, seen, record)) is not None:
        return [_finding(PERFORMANCE, why, "critical", newest)]
    return []


def _not_back(spec: ModelSpec, seen: Situation, record: Record) -> str | None:
    """Why an incident goes on though the new version keeps what is expected of it: that is less than what was expected before.

    A version that was trained in the middle of a change has seen little of the new world, and was judged on the change itself.
    """
    incident, count = record.incident_of(PERFORMANCE), spec.response.close_after
    if incident is None or incident.level is None or seen.champion is None:
        return None
    since = incident.detected
    released = [one for one in record.releases if since is not None and one.now is not None and one.now >= since]
    if seen.champion.version not in {one.released.version for one in released}:
        return None
    mine = [one for one in _labelled(seen) if one.version == seen.champion.version][-count:]
    losses = [one.performance.value for one in mine if one.performance is not None]
    if len(losses) < count:
        return None
    mean = sum(losses) / count
    if mean <= (1 + spec.monitoring.floor) * incident.level:
        return None
    return (
        f"version {seen.champion.version} keeps what is expected of it, and is still {mean / incident.level - 1:.0%} above the "
        f"{incident.level:.4g} of before"
    )


def is_worse_than_before(spec: ModelSpec, seen: Situation) -> bool:
    """Is the former champion better on the very rows that this one answered, in the newest window and often enough?

    A version that was bad from its first day on has nothing to decay from. Where it is worse by five floors one window is enough.
    """
    rules = spec.monitoring
    mine = [one for one in _labelled(seen) if seen.champion is not None and one.version == seen.champion.version]
    last = mine[-rules.confirm.of :]
    if not last or last[-1].former is None or not last[-1].former.is_better:
        return False
    pair = last[-1].former.comparison
    if pair.candidate >= (1 + SEVERE * rules.floor) * pair.champion:
        return True
    return sum(one.former is not None and one.former.is_better for one in last) >= rules.confirm.alarms


def newest_labelled(seen: Situation) -> ModelHealth | None:
    """The newest window of the champion whose labels may decide."""
    mine = [one for one in _labelled(seen) if seen.champion is not None and one.version == seen.champion.version]
    return mine[-1] if mine else None


def _labelled(seen: Situation) -> list[ModelHealth]:
    return [one for one in seen.model if one.performance is not None]


def _of_service(seen: Situation) -> list[Finding]:
    newest = next((one for one in reversed(seen.model) if one.window == seen.window), None)
    found = [] if newest is None else judge_service(newest.service)
    if newest is None or not found:
        return []
    severity: Severity = "critical" if any(verdict == "failed" for verdict, _ in found) else "warning"
    return [_finding(SERVICE, found[0][1], severity, newest, [why for _, why in found])]


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
    level: float | None = None,
) -> Finding:
    why = tuple(evidence) or (title,)
    return Finding(cause, title, severity, health.window, health.begin, why, tuple(features), level)


def keep(
    spec: ModelSpec, seen: Situation, record: Record, findings: Sequence[Finding]
) -> tuple[list[tuple[str, Fact]], Record]:
    """Facts that open, join and close incidents, each with its incident's id, and the record with them."""
    facts: list[tuple[str, Fact]] = []
    for one in findings:
        known = record.incident_of(one.cause)
        if known is None:
            count = sum(other.cause == one.cause for other in record.incidents)
            name = f"{spec.name}/{one.cause}/{count + 1}"
            facts.append(
                (name, Opened(one.cause, one.title, one.severity, one.window, one.began, None, one.evidence, one.level))
            )
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
    if cause == SERVICE:
        served = [one for one in seen.model if one.window > last and one.service.requests][-count:]
        over = len(served) == count and not any(judge_service(one.service) for one in served)
        return f"requests are answered in {count} windows in a row" if over else None
    if cause in (PERFORMANCE, GATES) and seen.champion is not None:
        since = incident.detected
        mine = [
            one
            for one in _labelled(seen)
            if one.version == seen.champion.version
            and one.window > last
            and (bool(last) or since is None or one.end > since)
        ][-count:]
        over = len(mine) == count and not any(one.decayed or (one.former and one.former.is_better) for one in mine)
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
