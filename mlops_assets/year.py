"""The year: all real traffic from March to December through the service and the health assets, month by month.

Labels come one week late, as they would. At the end it is checked that what is known to be wrong with these data was found.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from mlops_assets.core.monitoring.health import DataHealth, ModelHealth, has_decayed
from mlops_assets.core.monitoring.performance import SCALES, assess_performance
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.schema import validate
from mlops_assets.core.spec import ModelSpec
from mlops_assets.demo import HEADLINE, DemoFailed, counted, require_nothing_later, run_lifecycles, show_progress
from mlops_assets.operations.client import PredictionClient
from mlops_assets.operations.jobs import JobFailed, run_job
from mlops_assets.operations.live_traffic import ingest, live_windows, stale_windows
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.progress import Progress
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import running_service
from mlops_assets.operations.traffic import ask, labels_of, post_labels
from mlops_assets.side_by_side import Held, side_by_side
from mlops_assets.sources.table import read_source
from mlops_assets.stores.home import Home
from mlops_assets.stores.prediction_log import PredictionLog

LATE = timedelta(days=7)
EVERY = timedelta(hours=1)
SEAL_SECONDS = "2"
PATIENCE_S = 60.0
ALL_WINDOWS = 100_000
CALM_YEARS, DAYS_A_YEAR, MOST_FALSE = 10, 306, 0.001
WEATHER = {"temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"}


@dataclass
class Sender:
    """One model's year: the rows still to be asked about, and the labels that are not known yet."""

    spec: ModelSpec
    rows: pd.DataFrame
    waiting: list[pd.DataFrame] = field(default_factory=list)
    asked: int = 0
    labelled: int = 0

    @classmethod
    def of(cls, spec: ModelSpec) -> "Sender":
        frame = read_source(spec.source)
        return cls(spec, validate(spec, frame[frame[spec.event_time] >= spec.live_from]).valid)

    def send(self, client: PredictionClient, begin: datetime, end: datetime) -> None:
        """Ask for what happens in `[begin, end)`, and post the labels that became known by its end."""
        times = self.rows[self.spec.event_time]
        part = self.rows[(times >= begin) & (times < end)].reset_index(drop=True)
        if len(part):
            traffic = ask(self.spec, client, part, EVERY)
            self.waiting.append(labels_of(self.spec, part, traffic.prediction_ids, LATE))
            self.asked += len(part)
        labels = pd.concat(self.waiting, ignore_index=True)
        known = labels["observed_at"] <= end
        self.labelled += post_labels(self.spec, client, labels[known].reset_index(drop=True))
        self.waiting = [labels[~known]]

    def send_rest(self, client: PredictionClient) -> None:
        """Post the labels that became known after the last event."""
        if self.waiting:
            self.labelled += post_labels(self.spec, client, pd.concat(self.waiting, ignore_index=True))
            self.waiting = []


def run_year(out: Console, project: Path, home: Home) -> None:
    """Send the year, month by month, and look at every window of it; months that are there already are left as they are.

    Raises
    ------
    DemoFailed
        When a run fails, the state is not that of models trained before they went live, or a known fault was not found.
    """
    started = time.perf_counter()
    specs, stores = tuple(declared_models().values()), Stores(home)
    for spec in specs:
        require_nothing_later(spec, stores)
    if untrained := {spec.name: spec for spec in specs if stores.releases.current(spec.name) is None}:
        run_lifecycles(out, untrained, stores, project)
    senders = [Sender.of(spec) for spec in specs]
    with (
        running_service(home, environment={"MLOPS_LOG_SEGMENT_SECONDS": SEAL_SECONDS}) as url,
        PredictionClient(url) as client,
    ):
        for begin, end in _months(specs[0]):
            if _is_there(specs, stores, begin, end):
                out.print(f"\n[bold]{begin:%B}[/bold] is there already")
                continue
            for sender in senders:
                sender.send(client, begin, end)
            _wait_until_sealed(stores.log)
            out.print(f"\n[bold]{begin:%B}[/bold]: {sum(one.asked for one in senders):,} answers so far", end="")
            _monitor(out, specs, stores, project)
        for sender in senders:
            sender.send_rest(client)
        _wait_until_sealed(stores.log)
    _monitor(out, specs, stores, project)
    for spec in specs:
        _show_months(out, spec, stores)
    out.print("\n[bold]What is known to be wrong with these data[/bold]")
    for line in _known_faults({spec.name: spec for spec in specs}, stores):
        out.print(f"  [green]✓[/green] {line}")
    out.print(f"\nDone in {time.perf_counter() - started:.0f} s; everything that was started has been stopped.")


def _run_monitoring(out: Console | Held, has_begun: Event, *, spec: ModelSpec, project: Path, stores: Stores) -> None:
    """Run `<model>_monitoring` over every window of the tables that has something new, in one run."""
    has_begun.set()
    windows = sorted(stale_windows(spec, stores))
    if not windows:
        return
    out.print(f"\n[bold]{spec.name}_monitoring[/bold]: the windows {windows[0]} to {windows[-1]}, in one run")
    shown: set[str] = set()

    def show(progress: Progress) -> None:
        if progress.kind != "asset" or progress.subject not in shown:  # each window is materialised: one line for all
            show_progress(out, progress)
        shown.add(progress.subject)

    try:
        run_job(project, f"{spec.name}_monitoring", windows=(windows[0], windows[-1]), show=show)
    except JobFailed as failure:
        raise DemoFailed(str(failure)) from failure


def _monitor(out: Console, specs: Sequence[ModelSpec], stores: Stores, project: Path) -> None:
    ingest(stores, specs)
    side_by_side(out, [partial(_run_monitoring, spec=spec, project=project, stores=stores) for spec in specs])


def _months(spec: ModelSpec) -> Iterator[tuple[datetime, datetime]]:
    """Begin and end of each month of the history, in the zone of its windows."""
    assert spec.monitoring.until is not None
    zone = spec.monitoring.timezone
    begin, end = pd.Timestamp(spec.live_from).tz_convert(zone), pd.Timestamp(spec.monitoring.until).tz_convert(zone)
    firsts = [begin, *pd.date_range(begin, end, freq="MS", inclusive="right"), end]
    for first, last in pairwise(dict.fromkeys(firsts)):
        yield first.to_pydatetime(), last.to_pydatetime()


def _is_there(specs: Sequence[ModelSpec], stores: Stores, begin: datetime, end: datetime) -> bool:
    """Has this month been sent already, as the demonstration does with the first? All of it, that is, to every model."""
    there = []
    for spec in specs:
        windows = Windows.of(spec)
        known = live_windows(spec, stores)
        keys = list(windows.between(windows.key(begin), windows.key(end - timedelta(microseconds=1))))
        found = [key for key in keys if key in known and known[key].rows]
        if found and len(found) < len(keys):
            raise DemoFailed(
                f"{spec.name}: {len(found)} of the {len(keys)} windows of {begin:%B} have traffic: the month was broken off; "
                "`make clean` removes all state and starts afresh"
            )
        there.append(bool(found))
    if any(there) and not all(there):
        raise DemoFailed(f"{begin:%B} was sent to some models only: `make clean` removes all state and starts afresh")
    return all(there)


def _wait_until_sealed(log: PredictionLog) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(not segment.sealed and segment.records for segment in log.segments()):
        if time.monotonic() > deadline:
            raise DemoFailed(f"the service did not seal its log within {PATIENCE_S:.0f} s")
        time.sleep(0.2)


def _verdicts(spec: ModelSpec, stores: Stores) -> tuple[list[DataHealth], list[ModelHealth]]:
    monitor = Monitor(spec, stores)
    model = monitor.newest_model_health(ALL_WINDOWS)
    return monitor.data_history(model[-1].window, ALL_WINDOWS), model


def _show_months(out: Console, spec: ModelSpec, stores: Stores) -> None:
    data, model = _verdicts(spec, stores)
    metrics = tuple(dict.fromkeys((spec.headline_loss, HEADLINE[spec.task][0])))
    out.print(f"\n[bold]{spec.name}[/bold], mean of the windows by month")
    columns = ("month", "windows", *metrics, f"expected {spec.headline_loss}", "decayed", "model", "data")
    table = Table(*columns, "features that stood out", box=None, pad_edge=False)
    for month in sorted({one.window[:7] for one in model}):
        mine = [one for one in model if one.window.startswith(month)]
        theirs = [one for one in data if one.window.startswith(month)]
        expected = [one.performance.expected for one in mine if one.performance is not None]
        culprits = Counter(name for one in theirs for name in one.culprits)
        table.add_row(
            month,
            str(len(mine)),
            *(f"{np.mean([one.realised[name] for one in mine if name in one.realised]):.4g}" for name in metrics),
            f"{np.mean(expected):.4g}" if expected else "-",
            str(sum(one.decayed for one in mine)),
            counted(one.verdict for one in mine),
            counted(one.verdict for one in theirs),
            ", ".join(f"{name} ({count})" for name, count in culprits.most_common(3)) or "none",
        )
    out.print(table)


def _known_faults(specs: dict[str, ModelSpec], stores: Stores) -> Iterator[str]:
    """Say how each known fault was found; raise `DemoFailed` for one that was not."""
    data, _ = _verdicts(specs["flight_delay"], stores)
    last = next(one for one in data if one.window == "2013-12-31")
    if last.verdict not in ("unhealthy", "failed") or not {*last.broken} >= WEATHER:
        raise DemoFailed(f"31 December: the dead weather feed was not found: {last.verdict}, broken: {last.broken}")
    yield f"the weather feed is dead on 31 December: {last.verdict}, broken are {', '.join(last.broken)}"
    storms = [one.window for one in data if "pressure" in one.broken and one.window != last.window]
    if not storms:
        raise DemoFailed("pressure missing in storms was not found in any window")
    yield f"pressure is missing, as it is in storms, in {len(storms)} windows: {', '.join(storms[:8])}"
    for name in specs:
        data, _ = _verdicts(specs[name], stores)
        new = {value: one.window for one in reversed(data) for value in one.unseen.get("destination", ())}
        alarms = [one.window for one in data if _found(one, "destination", "unseen")]
        if not new or not alarms:
            raise DemoFailed(f"{name}: new destinations were not found")
        named = ", ".join(f"{value} on {window}" for value, window in sorted(new.items(), key=lambda pair: pair[1]))
        yield f"{name}: destinations that the model has never seen: {named}; alarm in {len(alarms)} windows, first on {alarms[0]}"
    yield _decay_found(specs["air_time"], stores)
    yield _calm(specs["air_time"], stores)


def _found(health: DataHealth, feature: str, test: str) -> bool:
    if health.drift is None:
        return False
    return any(one.feature == feature and one.alarm and one.test == test for one in health.drift.features)


def _decay_found(spec: ModelSpec, stores: Stores) -> str:
    """When decay was reported, beside the weeks in which the error was a tenth above the held-out rows'."""
    _, model = _verdicts(spec, stores)
    known = [one for one in model if one.cohort.labelled]
    reference = known[0].reference[spec.headline_loss]
    weeks = pd.DataFrame(
        {
            "week": [pd.Timestamp(one.window).to_period("W") for one in known],
            "rows": [one.cohort.labelled for one in known],
            "total": [one.realised[spec.headline_loss] * one.cohort.labelled for one in known],
        }
    )
    by_week = weeks.groupby("week").sum()
    loss = by_week["total"] / by_week["rows"]
    bad = list(loss.index[loss > reference * (1 + spec.monitoring.floor)])
    first = next((pd.Timestamp(one.window) for one in known if one.decayed), None)
    if not bad or first is None or first > bad[min(1, len(bad) - 1)].end_time:
        raise DemoFailed(f"{spec.name}: decay was reported on {first}, the bad weeks are {bad[:2]}")
    weeks_named = ", ".join(f"{week.start_time:%d %B} ({loss[week]:.3g})" for week in bad[:2])
    return (
        f"{spec.name}: decay is reported on {first:%d %B}; the first weeks whose {spec.headline_loss} is a tenth above the "
        f"{reference:.3g} of the held-out rows begin on {weeks_named}"
    )


def _calm(spec: ModelSpec, stores: Stores) -> str:
    """How often decay is reported where there is none: years put together from days of the reference, drawn at random."""
    plan = stores.releases.current(spec.name)
    assert plan is not None
    reference = Monitor(spec, stores).reference(plan.champion.bundle)
    assert reference is not None
    days, random = reference.held_out.performance.blocks, np.random.default_rng(spec.training.seed)
    decayed = 0
    for _ in range(CALM_YEARS):
        drawn = [days[at] for at in random.integers(0, len(days), DAYS_A_YEAR)]
        for end in range(1, DAYS_A_YEAR + 1):
            windows = drawn[max(0, end - max(SCALES)) : end]
            report = assess_performance(
                reference.held_out.performance, windows, loss=spec.headline_loss, floor=spec.monitoring.floor
            )
            decayed += has_decayed(spec, report)
    share = decayed / (CALM_YEARS * DAYS_A_YEAR)
    if share > MOST_FALSE:
        raise DemoFailed(f"{spec.name}: decay is reported in {share:.2%} of the windows of calm years")
    return (
        f"{spec.name}: in {CALM_YEARS} calm years, the reference's own days in random order, decay is reported in {decayed} of "
        f"{CALM_YEARS * DAYS_A_YEAR:,} windows"
    )
