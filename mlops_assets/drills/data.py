"""Drills of the data: a season, a dead feed, another unit, new categories, no labels, doubled requests, a clock that jumps.

Those of the weather end on the sixth day of March: on the seventh and eighth a third of the pressures are missing in the real data.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, islice

import numpy as np
import pandas as pd

from mlops_assets.core.ledger import Incident
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.records import PredictionRecord
from mlops_assets.drills.caller import Caller, bodies_of
from mlops_assets.drills.stage import Stage
from mlops_assets.drills.trials import promoted
from mlops_assets.operations.live_traffic import live_windows, quarantined_since
from mlops_assets.operations.look import newest_judged
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.traffic import Traffic

WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
A_WEEK = timedelta(days=7)
TRAINED_S = 600.0
MOST_TRIAL_DAYS = 42
NEW_PLACES = ("XQA", "XQB", "XQC")
NEW_SHARE = 0.15


def season(stage: Stage) -> None:
    """The winds of winter fade, labels come a week late, and the model is trained and released anew by itself."""
    before, sent = stage.champion(), 0
    stage.inject("nothing: real flights from March on, labels a week late")
    traffics: list[Traffic] = []
    for days in (16, *[7] * 8):  # the response decides at the newest window, so that it must not be led past the change
        traffics.append(stage.send(stage.days(sent, days)))
        sent += days
        _label_late(stage, traffics, sent)
        stage.judged(stage.window(sent - 1), TRAINED_S)
        _decided_on(stage, stage.window(sent - 1))
        stage.step(f"{sum(len(one.rows) for one in traffics):,} flights until {stage.window(sent - 1)} are judged")
        if stage.trainings():
            break
    decision = stage.wait(lambda: stage.decided("retrain"), "a training is decided", 30)
    cause = decision.what.incidents[0].split("/")[1]
    incident = stage.wait(lambda: stage.incident(cause), "an incident is open")
    _found(stage, incident)
    stage.step(f"decided: {decision.what.reason}")
    later = count(sent)
    trial_days = islice((stage.days(number) for number in later), MOST_TRIAL_DAYS)
    stage.harmless(f"version {promoted(stage, before, trial_days, TRAINED_S)} serves")
    sent = next(later)
    after = stage.send(stage.days(sent, 10))
    stage.label(after)
    stage.judged(stage.window(sent + 9), TRAINED_S)
    closed = stage.wait(lambda: stage.closed(cause), f"the incident of {cause} is closed", TRAINED_S)
    stage.healed(closed.resolution, closed.resolved_at)


def dead_feed(stage: Stage) -> None:
    """The weather comes no more: answers go on, imputed and flagged, the owner is told, and nobody trains on that."""
    stage.label(_quiet_days(stage, 0, 2))
    stage.after_a_look()
    stage.inject("the weather of a day is missing")
    traffic = stage.send(without(stage.days(2), WEATHER))
    stage.require(bool(np.isfinite(traffic.outputs).all()), "every flight is answered")
    flags = [one.imputed for one in _logged(stage, traffic)]
    stage.require(all(set(WEATHER) <= set(names) for names in flags), "every answer says that its weather is imputed")
    incident = stage.wait(lambda: stage.incident("feed:weather"), "an incident is opened for the feed")
    _found(stage, incident, stage.window(2))
    mitigated = stage.wait(lambda: stage.mitigated("feed:weather"), "it is imputed as declared")
    stage.harmless(str(mitigated.mitigated_by), mitigated.mitigated_at)
    stage.send(stage.days(3, 3))
    stage.step("the weather is back")
    closed = stage.wait(lambda: stage.closed("feed:weather"), "the incident is closed")
    stage.healed(closed.resolution, closed.resolved_at)
    stage.require(not stage.trainings(), "nothing was trained on it")


def unit_change(stage: Stage) -> None:
    """°F becomes °C in temp and dewp: what cannot be is taken for missing, and counts again when the unit is right."""
    stage.label(_quiet_days(stage, 0, 1))
    stage.after_a_look()
    stage.inject("a day's temp and dewp come in °C, and are declared in °F")
    bad = stage.send(in_celsius(stage.days(1)))
    stage.bad_ids |= set(bad.prediction_ids)
    incident = stage.wait(lambda: stage.incident("feed:weather"), "an incident is opened for the feed")
    _found(stage, incident, stage.window(1))
    mitigated = stage.wait(lambda: stage.mitigated("feed:weather"), "bad values are taken for missing")
    masked = _masked(stage)
    stage.harmless(f"{', '.join(masked)} taken for missing", mitigated.mitigated_at)
    stage.require("temp" in masked, "temp is masked")
    traffic = stage.send(in_celsius(stage.days(2)))
    ignored = all("temp" in one.imputed for one in _logged(stage, traffic))
    stage.require(ignored, "the next day's answers do not use it")
    stage.send(stage.days(3, 3))
    stage.step("the unit is right again")
    closed = stage.wait(lambda: stage.closed("feed:weather"), "the incident is closed")
    stage.wait(lambda: not _masked(stage), "all values count again")
    stage.healed(f"{closed.resolution}; nothing is masked")
    stage.require(not stage.trainings(), "nothing was trained on it")


def new_category(stage: Stage) -> None:
    """New destinations: answered, flagged, told of, and nothing else is done."""
    before = stage.champion()
    stage.label(_quiet_days(stage, 0, 3))
    stage.after_a_look()
    stage.inject(f"{NEW_SHARE:.0%} of the flights go to {', '.join(NEW_PLACES)}")
    traffic = stage.send(to_new_places(stage.days(3, 2)))
    fresh = traffic.rows["destination"].isin(NEW_PLACES).to_numpy()
    stage.require(bool(np.isfinite(traffic.outputs).all()), "every flight is answered")
    flagged = np.array(["destination" in one.out_of_domain for one in _logged(stage, traffic)])
    stage.require(bool(flagged[fresh].all()), f"the {int(fresh.sum())} new ones are flagged")
    stage.step(f"{int(flagged[~fresh].sum())} others too: real places that no flight of January or February went to")
    incident = stage.wait(lambda: stage.incident("drift") or stage.incident("feed:destination"), "people are told")
    _found(stage, incident, stage.window(3))
    stage.harmless("they are answered as unknown places; nothing had to be done", incident.detected_at)
    stage.send(stage.days(5, 3))
    closed = stage.wait(lambda: stage.closed(incident.cause), "the incident is closed")
    stage.healed(closed.resolution, closed.resolved_at)
    stage.require(stage.champion() == before and not stage.trainings(), "the champion stays, and nothing was trained")


def label_outage(stage: Stage) -> None:
    """No labels come: people are told, nothing is concluded from their absence, and it is over when they come."""
    before = stage.champion()
    stage.label(_quiet_days(stage, 0, 4))
    stage.after_a_look()
    stage.inject("answers go on, and no label comes any more")
    traffic = stage.send(stage.days(4, 6))
    incident = stage.wait(lambda: stage.incident("monitor:labels"), "people are told that labels dry up")
    _found(stage, incident)
    stage.harmless("nothing is trained or rolled back for want of labels", incident.detected_at)
    stage.label(traffic)
    stage.step("the labels come, late")
    closed = stage.wait(lambda: stage.closed("monitor:labels"), "the incident is closed")
    stage.healed(closed.resolution, closed.resolved_at)
    stage.require(stage.champion() == before and not stage.trainings(), "the champion stays, and nothing was trained")


def duplicate_traffic(stage: Stage) -> None:
    """A caller sends everything three times, labels too: each counts once."""
    rows = stage.days(0)
    traffic = stage.send(rows)
    stage.label(traffic)
    stage.after_a_look()
    stage.judged(stage.window(0))
    once = live_windows(stage.spec, stage.stores)[stage.window(0)]
    stage.inject(f"the {len(rows)} requests of a day come twice more, with their ids, and so do their labels")
    for _ in range(2):
        bodies = bodies_of(stage.spec, rows, traffic.prediction_ids)
        with Caller(stage.system.url, stage.tally) as client:
            for first in range(0, len(bodies), 200):
                client.predict_many(stage.spec.name, bodies[first : first + 200])
        stage.label(traffic)
    stage.send(stage.days(1))
    stage.judged(stage.window(1))
    stage.after_a_look()
    stage.judged(stage.window(1))
    again = live_windows(stage.spec, stage.stores)[stage.window(0)]
    same = (once.answered, once.labelled) == (again.answered, again.labelled)
    stage.require(same, f"the window has {again.answered} answers and {again.labelled} labels, as before")
    verdict = Monitor(stage.spec, stage.stores).data_history(stage.window(0), 1)[-1]
    stage.require(verdict.verdict != "failed" and not verdict.broken, f"its verdict is {verdict.verdict}")
    _decided_on(stage, stage.window(1))
    stage.require(not [one for one in stage.record.decisions if one.what.asks_for_work], "nothing was done about it")
    stage.healed("each counts once")


def clock_jump(stage: Stage) -> None:
    """One request, and one label, dated 2099: put aside, and nobody's clock moves."""
    stage.label(_quiet_days(stage, 0, 2))
    stage.judged(stage.window(1))
    _decided_on(stage, stage.window(1))
    before = newest_judged(stage.spec, stage.stores)
    future = datetime(2099, 1, 1, tzinfo=UTC)
    stage.after_a_look()
    stage.inject("an event and a label are dated 2099")
    rows = stage.days(1).head(1).copy()
    rows[stage.spec.event_time] = pd.Series([pd.Timestamp(future)], dtype=rows[stage.spec.event_time].dtype)
    traffic = stage.send(rows)
    with Caller(stage.system.url, stage.tally) as client:
        body = {"id": traffic.prediction_ids[0], "value": 1, "observed_at": future.isoformat()}
        client.feedback(stage.spec.name, [body])
    aside = stage.wait(lambda: _put_aside(stage, traffic.prediction_ids[0]), "it is put aside")
    stage.found(f"put aside: {aside}")
    stage.after_a_look()
    stage.after_a_look()
    now = newest_judged(stage.spec, stage.stores)
    stage.require(now == before, f"now is still the end of {before[0]}")
    asked = [one for one in stage.record.decisions if one.what.asks_for_work]
    stage.require(not asked, "nothing was done about it")
    calendar = Windows.of(stage.spec)
    later = [one for one in stage.record.decisions if one.now and one.now > calendar.bounds(stage.window(1))[1]]
    stage.require(not later, "no decision is dated later")
    stage.send(stage.days(2))
    stage.judged(stage.window(2))
    stage.healed("the next day is judged as ever")


# ---- what is done to flights


def without(rows: pd.DataFrame, features: Sequence[str]) -> pd.DataFrame:
    """The same flights without the values of some features."""
    return rows.assign(**{name: rows[name].mask(pd.Series(True, rows.index)) for name in features})


def in_celsius(rows: pd.DataFrame) -> pd.DataFrame:
    """The same flights with °C where °F is declared."""
    return rows.assign(**{name: (rows[name] - 32) / 1.8 for name in ("temp", "dewp")})


def to_new_places(rows: pd.DataFrame) -> pd.DataFrame:
    """The same flights, some of which go where nobody has flown before."""
    random = np.random.default_rng(2013)
    chosen, places = random.random(len(rows)) < NEW_SHARE, random.choice(NEW_PLACES, len(rows))
    return rows.assign(
        destination=rows["destination"].mask(pd.Series(chosen, rows.index), pd.Series(places, rows.index))
    )


# ---- what is looked at


def _quiet_days(stage: Stage, first: int, count: int) -> Traffic:
    traffic = stage.send(stage.days(first, count))
    stage.step(f"{len(traffic.rows):,} flights of {count} days are answered")
    return traffic


def _label_late(stage: Stage, traffics: Sequence[Traffic], sent: int) -> None:
    """Post the labels that are known a week after the event, by the end of what was sent; those posted before, once more."""
    until = Windows.of(stage.spec).bounds(stage.window(sent - 1))[1]
    for traffic in traffics:
        stage.label(traffic, until=until, late=A_WEEK)


def _logged(stage: Stage, traffic: Traffic) -> list[PredictionRecord]:
    """The records of what was sent, in its order."""
    known = {one.id: one for one in stage.stores.log.records(stage.spec.name) if isinstance(one, PredictionRecord)}
    return [known[one] for one in traffic.prediction_ids]


def _found(stage: Stage, incident: Incident, first: str | None = None) -> None:
    """Note when an incident was found, and in the how many-th window from the first bad one on."""
    if first is not None and incident.windows:
        calendar = Windows.of(stage.spec)
        stage.times.detect_windows = len(tuple(calendar.between(first, incident.windows[0])))
    stage.found(incident.title, incident.detected_at)


def _masked(stage: Stage) -> tuple[str, ...]:
    plan = stage.stores.releases.current(stage.spec.name)
    return () if plan is None else plan.masked


def _decided_on(stage: Stage, window: str) -> None:
    """Wait until the response has looked at a window."""
    stage.wait(lambda: any(one.what.window == window for one in stage.record.decisions), f"{window} is decided on")


def _put_aside(stage: Stage, request: str) -> str | None:
    aside = quarantined_since(stage.spec, stage.stores)
    mine = aside[aside["id"] == request]
    return str(mine["reason"].iloc[0]) if len(mine) else None
