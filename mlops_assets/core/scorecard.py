"""How well the platform keeps its models alive: a few figures beside their targets, from the ledger and the live windows.

Each figure says how many events it rests on, and is None where there are none. Reading the stores and wording the figures is the
business of `operations/scorecard.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import fmean, median

import msgspec

from mlops_assets.core.ledger import Change, Decision, Incident, Outcome, Record
from mlops_assets.core.live_traffic import LiveWindow
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.response import FEED, PERFORMANCE, SERVICE, TRAFFIC
from mlops_assets.core.scorecard_values import (
    ALL_MODELS,
    AUTOMATED,
    AVAILABILITY,
    DETECT_S,
    MITIGATE_S,
    SAFE_RELEASES,
    VIOLATIONS,
    Card,
    Figure,
    Scorecard,
    Target,
    Unit,
)
from mlops_assets.core.trials.facts import Trial

MONTH = timedelta(days=30)
GOING_BACK = frozenset({"rollback", "reversal"})
SAFE_STRATEGIES = frozenset({"shadow", "canary", "shadow-then-canary"}) | GOING_BACK


@dataclass(frozen=True)
class Evidence:
    """What is known of one model. `calendar` is that of its windows; None where the model is not declared any more."""

    record: Record
    windows: Sequence[LiveWindow] = ()
    calendar: Windows | None = None


def scorecard(
    evidence: Sequence[Evidence], at: datetime, since: datetime | None = None, until: datetime | None = None
) -> Scorecard:
    """The figures of each model and of all together; events are pooled, figures are not averaged.

    Parameters
    ----------
    at
        Now by the wall clock: what is not over yet has lasted until then.
    since, until
        Period of event time. Windows belong to it by their begin, incidents by when they began, decisions and releases by the
        newest window they were made on.
    """
    parts = [_part(one, at, since, until) for one in evidence]
    models = tuple(_card(part.model, [part]) for part in parts)
    return Scorecard(at, since, until, _card(ALL_MODELS, parts), models)


class _Duration(msgspec.Struct, frozen=True):
    """`exact` ones begin with a known first bad row, others with the first answer of the window that was found bad."""

    length: float
    incident: str
    over: bool = True
    exact: bool = True


@dataclass(frozen=True)
class _Part:
    """What belongs to the period, of one model."""

    model: str
    windows: Sequence[LiveWindow]
    watched: timedelta
    incidents: Sequence[Incident]
    decisions: Sequence[Decision]
    releases: Sequence[Change]
    trials: Sequence[Trial]
    undated: int
    first_served: dict[str, datetime]
    window_s: float | None
    newest: datetime | None
    at: datetime


def _part(one: Evidence, at: datetime, since: datetime | None, until: datetime | None) -> _Part:
    record, calendar = one.record, one.calendar
    whole = since is None and until is None

    def belongs(moment: datetime | None) -> bool:
        if moment is None:
            return whole
        return (since is None or since <= moment) and (until is None or moment < until)

    bounds = {} if calendar is None else {window.window: calendar.bounds(window.window) for window in one.windows}
    windows = [window for window in one.windows if window.window in bounds and belongs(bounds[window.window][0])]
    moments = [
        *map(_began, record.incidents),
        *(one.now for one in record.decisions),
        *(one.now for one in record.releases),
    ]
    ends = [end for _, end in bounds.values()]
    return _Part(
        model=record.model,
        windows=windows,
        watched=sum((bounds[window.window][1] - bounds[window.window][0] for window in windows), timedelta(0)),
        incidents=[incident for incident in record.incidents if belongs(_began(incident))],
        decisions=[decision for decision in record.decisions if belongs(decision.now)],
        releases=[release for release in record.releases if belongs(release.now)],
        trials=record.trials,
        undated=0 if whole else sum(moment is None for moment in moments),
        first_served={window.window: window.first_served_at for window in one.windows if window.first_served_at},
        window_s=None if calendar is None else _length_s(calendar),
        newest=max(ends, default=None),
        at=at,
    )


def _began(incident: Incident) -> datetime | None:
    """By the events' clock."""
    return incident.began or incident.detected


def _length_s(calendar: Windows) -> float:
    """Seconds in a window where no clock is put forward or back."""
    plain = replace(calendar, timezone="UTC")
    begin, end = plain.bounds(plain.first)
    return (end - begin).total_seconds()


def _card(model: str, parts: Sequence[_Part]) -> Card:
    figures = (
        _availability(parts),
        _violations(parts),
        _duration("time to detect", "s", parts, _wall_clock(_detected_at), DETECT_S),
        _duration("time to mitigate", "s", parts, _wall_clock(_mitigated_at), MITIGATE_S),
        _duration("time to resolve", "s", parts, _wall_clock(_resolved_at)),
        _duration("time to detect, event time", "windows", parts, _event_clock(_detected)),
        _duration("time to resolve, event time", "windows", parts, _event_clock(_resolved, may_last=True)),
        _safe_releases(parts),
        _automated(parts),
    )
    return Card(model, figures, sum(part.undated for part in parts))


def _availability(parts: Sequence[_Part]) -> Figure:
    windows = [window for part in parts for window in part.windows]
    answered = sum(window.answered for window in windows)
    lost = sum(window.failed + window.shed for window in windows)
    refused = sum(window.refused for window in windows)
    note = f"{refused} that were not valid do not count" if refused else ""
    return _share("availability", answered, answered + lost, "requests", AVAILABILITY, note)


def _violations(parts: Sequence[_Part]) -> Figure:
    """Incidents of feeds and of missing traffic for each model and 30 days of windows."""
    count = sum(
        incident.cause.startswith(FEED) or incident.cause == TRAFFIC for part in parts for incident in part.incidents
    )
    watched = sum((part.watched for part in parts), timedelta(0))
    looked, name = sum(len(part.windows) for part in parts), "data-health violations"
    if not watched:
        note = f"{count} in windows that are not known" if count else ""
        return Figure(name, None, "per 30 days", 0, "windows", VIOLATIONS, note=note)
    value = count * (MONTH / watched)
    # Less than a month without any is no month without any, but one is already too many.
    met = VIOLATIONS.is_met_by(value) if watched >= MONTH else (False if count else None)
    early = "" if watched >= MONTH else ", not a month yet"
    note = f"{count} in {watched / timedelta(days=1):.4g} days of windows{early}"
    return Figure(name, value, "per 30 days", looked, "windows", VIOLATIONS, met, note=note)


def _safe_releases(parts: Sequence[_Part]) -> Figure:
    """Of the changes from one version to another; the first release of a model has nothing to be tried against."""
    changes = [
        one.released
        for part in parts
        for one in part.releases
        if one.released.former is not None and one.released.former != one.released.version
    ]
    safe = sum(one.strategy in SAFE_STRATEGIES for one in changes)
    back = sum(one.strategy in GOING_BACK for one in changes)
    others = sorted({one.strategy for one in changes} - SAFE_STRATEGIES)
    notes = [
        f"{back} of them back to a version that has served" if back else "",
        f"not safe: {', '.join(others)}" if others else "",
    ]
    return _share("releases by a safe strategy", safe, len(changes), "releases", SAFE_RELEASES, _joined(notes))


def _automated(parts: Sequence[_Part]) -> Figure:
    """Of the decisions for work that came to an end or to a person; what changed nothing remedied nothing."""
    decisions = [one for part in parts for one in _distinct(part.decisions)]
    asked = [one for one in decisions if one.what.asks_for_work or one.what.action == "escalate"]
    became = {one.id: outcome for part in parts for one, outcome in _trials_of(part.decisions, part.trials)}
    over = [one for one in asked if (one.is_final or one.waits_for_approval) and became.get(one.id) != "on trial"]
    idle = [one for one in over if became.get(one.id, one.outcome) in ("refused", "unchanged")]
    counted = [one for one in over if one not in idle]
    people = sum(_needs_a_person(one) for one in counted)
    done = sum(became.get(one.id, one.outcome) == "done" and not _needs_a_person(one) for one in counted)
    failed, underway = len(counted) - people - done, len(asked) - len(over)
    notes = [
        f"{people} needed a person" if people else "",
        f"{failed} not done" if failed else "",
        f"{len(idle)} that kept the champion do not count" if idle else "",
        f"{underway} not over" if underway else "",
    ]
    return _share("automated remediations", done, len(counted), "decisions", AUTOMATED, _joined(notes))


def _trials_of(decisions: Iterable[Decision], trials: Sequence[Trial]) -> Iterable[tuple[Decision, Outcome]]:
    """What became of decisions whose version is or was on trial: promoted is done, held back is refused."""
    for one in decisions:
        if one.outcome == "on trial":
            own = [trial for trial in trials if trial.began.decided_by.removeprefix("run:") in one.runs]
            promoted = any(trial.promoted for trial in own)
            under_way = not own or any(trial.is_open for trial in own)
            yield one, "done" if promoted else ("on trial" if under_way else "refused")


def _distinct(decisions: Iterable[Decision]) -> Iterable[Decision]:
    """All decisions, but one call for a person for the same incidents, which is made at each window."""
    calls = set()
    for one in decisions:
        if one.what.action == "escalate":
            if one.what.incidents in calls:
                continue
            calls.add(one.what.incidents)
        yield one


def _needs_a_person(one: Decision) -> bool:
    by_hand = one.actor.startswith("user:") or one.approved_by is not None or one.rejected_by is not None
    return by_hand or one.what.mode == "approve" or one.what.action in ("freeze", "escalate")


def _share(name: str, part: int, whole: int, of: str, target: Target, note: str) -> Figure:
    value = part / whole if whole else None
    met = None if value is None else target.is_met_by(value)
    return Figure(name, value, "share", whole, of, target, met, note=note)


_Measure = Callable[[_Part, Incident], _Duration | None]


def _duration(name: str, unit: Unit, parts: Sequence[_Part], measure: _Measure, target: Target | None = None) -> Figure:
    """Mean, median and worst over the incidents that harm answers; those that last are counted as long as they have lasted."""
    harmful = [(part, incident) for part in parts for incident in part.incidents if _harms(incident)]
    found = [one for part, incident in harmful if (one := measure(part, incident)) is not None]
    lasting = sum(not one.over for one in found)
    unknown, inexact = len(harmful) - len(found), sum(not one.exact for one in found)
    notes = [
        f"{lasting} not over, counted as long as they have lasted" if lasting else "",
        f"{inexact} from the first answer of their window on" if inexact else "",
        f"of {unknown} more it is not known" if unknown else "",
    ]
    if not found:
        return Figure(name, None, unit, 0, "incidents", target, note=_joined(notes))
    lengths = [one.length for one in found]
    worst = max(found, key=lambda one: (one.length, one.incident))
    value = fmean(lengths)
    met = None if target is None else target.is_met_by(value)
    if met and lasting:
        met = None  # what has not ended may still take too long
    return Figure(
        name,
        value,
        unit,
        len(found),
        "incidents",
        target,
        met,
        median(lengths),
        worst.length,
        worst.incident,
        _joined(notes),
    )


def _harms(incident: Incident) -> bool:
    """Are answers worse for it? Drift alone harms none, and neither do troubles of runs, gates and monitors."""
    return incident.cause.startswith((FEED, SERVICE)) or incident.cause in (TRAFFIC, PERFORMANCE)


def _wall_clock(end_of: Callable[[Incident], datetime | None]) -> _Measure:
    """Seconds from the first bad row to an end, both by the wall clock."""

    def measure(part: _Part, incident: Incident) -> _Duration | None:
        served = part.first_served.get(min(incident.windows, default=""))
        begin = incident.first_bad_at or served
        end = end_of(incident)
        if begin is None:
            return None
        length = ((end or part.at) - begin).total_seconds()
        return _Duration(length, incident.id, end is not None, begin != served) if length >= 0 else None

    return measure


def _event_clock(end_of: Callable[[Incident], datetime | None], *, may_last: bool = False) -> _Measure:
    """Windows from the first bad one to an end, both by the events' clock; what `may_last` and is open has lasted until now."""

    def measure(part: _Part, incident: Incident) -> _Duration | None:
        lasts = may_last and incident.is_open
        end = part.newest if lasts else end_of(incident)
        if incident.began is None or end is None or part.window_s is None:
            return None
        length = (end - incident.began).total_seconds() / part.window_s
        return _Duration(length, incident.id, not lasts) if length >= 0 else None

    return measure


def _detected_at(incident: Incident) -> datetime | None:
    return incident.detected_at


def _mitigated_at(incident: Incident) -> datetime | None:
    """What is over harms no longer, also when nobody has done anything about it."""
    ends = [moment for moment in (incident.mitigated_at, incident.resolved_at) if moment is not None]
    return min(ends, default=None)


def _resolved_at(incident: Incident) -> datetime | None:
    return incident.resolved_at


def _detected(incident: Incident) -> datetime | None:
    return incident.detected


def _resolved(incident: Incident) -> datetime | None:
    return incident.resolved


def _joined(notes: Iterable[str]) -> str:
    return "; ".join(note for note in notes if note)
