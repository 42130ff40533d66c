"""The demonstration: both models through Dagster, a month of real traffic over HTTP, and three ways to break it that heal.

A script for people to watch; all it does is done by `operations`, and by Dagster as a process of its own.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from mlops_assets.acts import bad_release, between, dead_feed, living_system, season, stage_of, without_weather
from mlops_assets.cli.scorecard import print_scorecard
from mlops_assets.core.spec import ModelSpec
from mlops_assets.drills.bad_models import register_shuffled
from mlops_assets.drills.stage import DrillFailed
from mlops_assets.drills.system import Program, System
from mlops_assets.operations.client import PredictionClient
from mlops_assets.operations.jobs import JobFailed, run_job
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.monitor import Monitor
from mlops_assets.operations.progress import Progress
from mlops_assets.operations.scorecard import make_scorecard
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.traffic import Quality, Traffic, assess, live_rows, send
from mlops_assets.side_by_side import Held, side_by_side
from mlops_assets.stores.home import Home

TOLERANCE = 1e-9
SINGLE_ROWS = 300
SEASON_UNTIL = datetime(2013, 3, 17, 4, tzinfo=UTC)  # by when the winter's winds have faded
AFTERWARDS = 13  # days after the first traffic that the acts need
HEADLINE = {
    "binary": ("roc_auc", "brier", "log_loss"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("mae", "rmse", "r2"),
}


class DemoFailed(RuntimeError):
    """A step of the demonstration did not do what it must; the message says which and why."""


@dataclass(frozen=True)
class Outcome:
    """One model's traffic and how good its answers were."""

    spec: ModelSpec
    traffic: Traffic
    quality: Quality
    sent_s: float


def run_demo(out: Console, project: Path, home: Home, until: datetime) -> None:
    """Train, gate, release, serve and ask; then break the running system in three ways and watch it heal.

    Raises
    ------
    DemoFailed
        When a run fails, an answer differs from the registered pipeline's by more than 1e-9, or something does not heal.
    """
    specs, stores = declared_models(), Stores(home)
    started = time.perf_counter()
    for spec in specs.values():
        require_nothing_later(spec, stores)
    run_lifecycles(out, specs, stores, project)
    out.print("\n[bold]Service[/bold]: starting on loopback, with every release that is current")
    ends = {name: SEASON_UNTIL if name == "air_time" else until for name in specs}
    later = {name: live_rows(spec, ends[name], ends[name] + timedelta(days=AFTERWARDS)) for name, spec in specs.items()}
    with living_system(out, project, home) as (system, dagster), PredictionClient(system.url) as client:
        outcomes = {name: _send(out, spec, stores, client, ends[name]) for name, spec in specs.items()}
        _report(out, list(outcomes.values()))
        try:
            _play(out, specs, outcomes, later, ends, system, dagster)
        except DrillFailed as failure:
            raise DemoFailed(str(failure)) from failure
    show_health(out, tuple(specs.values()), stores)
    out.print("\n[bold]The scorecard[/bold]")
    print_scorecard(out, make_scorecard(stores, specs, datetime.now(UTC)), by_model=False)
    _where_to_look(out, list(outcomes.values()), home)
    out.print(f"\nDone in {time.perf_counter() - started:.0f} s; everything that was started has been stopped.")


def run_lifecycles(out: Console, specs: Mapping[str, ModelSpec], stores: Stores, project: Path) -> None:
    """All models at the same time, told one after the other.

    The second begins when the first has begun to work and MLflow's database is there: two processes must not make them at once.
    """
    stores.registry.versions(next(iter(specs)))
    side_by_side(out, [partial(run_lifecycle, spec=spec, project=project) for spec in specs.values()])


def _play(
    out: Console,
    specs: Mapping[str, ModelSpec],
    outcomes: Mapping[str, "Outcome"],
    later: Mapping[str, pd.DataFrame],
    ends: Mapping[str, datetime],
    system: System,
    dagster: Program,
) -> None:
    """The three acts. The first two are of different models, run at the same time, and are told one after the other."""
    air, delay = specs["air_time"], specs["flight_delay"]
    aside = Held(out)
    winds = stage_of(air, system, dagster, lambda line: out.print(f"  {line}", markup=False))
    weather = stage_of(delay, system, dagster, lambda line: aside.print(f"  {line}", markup=False))
    spring = ends[air.name]
    first = between(air, later[air.name], spring + timedelta(days=7), 4)
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(register_shuffled, air, system.stores, first[air.event_time].min().to_pydatetime())
        two = pool.submit(
            dead_feed, weather, outcomes[delay.name].traffic, between(delay, later[delay.name], ends[delay.name], 4)
        )
        out.print(
            "\n[bold]Act one: the season[/bold]. The winds of winter fade, and no feature of air_time carries them"
        )
        season(winds, between(air, later[air.name], spring, 7))
        out.print("\n[bold]Act two: a dead feed[/bold], meanwhile. No weather comes for the last days of March")
        aside.let_go()
        two.result()
        version = bad.result()
    out.print(
        "\n[bold]Act three: a bad release[/bold]. Somebody forces a version live that learnt labels in random order"
    )
    bad_release(winds, version, first, between(air, later[air.name], spring + timedelta(days=11), 1))


def require_nothing_later(spec: ModelSpec, stores: Stores) -> None:
    """The traffic that will be sent must not have been trained on, by an earlier hand on this state."""
    plan = stores.releases.current(spec.name)
    if plan is not None and plan.as_of > spec.live_from:
        raise DemoFailed(
            f"{spec.name} has been trained on what was known at {plan.as_of.isoformat()}, so that the answers to come would not be "
            "honest ones: `make clean` removes all state and starts afresh"
        )


def run_lifecycle(out: Console | Held, has_begun: Event, *, spec: ModelSpec, project: Path) -> None:
    """Run `<model>_lifecycle` in a Dagster process, on the instance that the UI shows, and print its assets and checks."""
    out.print(f"\n[bold]{spec.name}_lifecycle[/bold]: {spec.description}")
    config = {"ops": {f"{spec.name}__raw_data": {"config": {"as_of": spec.live_from.isoformat()}}}}

    def show(progress: Progress) -> None:
        has_begun.set()
        show_progress(out, progress)

    try:
        run_job(project, f"{spec.name}_lifecycle", config=config, show=show)
    except JobFailed as failure:
        raise DemoFailed(str(failure)) from failure


def show_progress(out: Console | Held, progress: Progress) -> None:
    """One line for what happened in a run."""
    if progress.kind == "asset":
        out.print(f"  [green]●[/green] {progress.subject}")
    elif progress.kind == "check":
        mark = "[green]✓[/green]" if progress.passed else "[red]✗[/red]"
        out.print(f"      {mark} {progress.subject}: ", end="")
        out.print(progress.detail, markup=False)
    else:
        out.print(f"  [red]{progress.subject}[/red] ", end="")
        out.print(progress.detail, markup=False)


def _send(out: Console, spec: ModelSpec, stores: Stores, client: PredictionClient, until: datetime) -> Outcome:
    rows = without_weather(spec, live_rows(spec, spec.live_from, until))
    out.print(f"  {spec.name}: sending {len(rows):,} real events, hour by hour, then their labels … ", end="")
    started = time.perf_counter()
    traffic = send(spec, client, rows, timedelta(hours=1), SINGLE_ROWS)
    sent_s = time.perf_counter() - started
    out.print(f"{traffic.labels:,} labels, {sent_s:.1f} s")
    quality = assess(spec, stores, traffic)
    if not quality.max_difference <= TOLERANCE:
        raise DemoFailed(
            f"{spec.name}: an HTTP answer differs from the registered pipeline's by {quality.max_difference:.3g}"
        )
    return Outcome(spec, traffic, quality, sent_s)


def _report(out: Console, outcomes: list[Outcome]) -> None:
    out.print("\n[bold]Answers against labels[/bold] (none of these rows was trained on)")
    table = Table("model", "labelled", "metric", "answers", "trivial model", box=None, pad_edge=False)
    for one in outcomes:
        for position, name in enumerate(HEADLINE[one.spec.task]):
            first = (one.spec.name, f"{one.quality.labelled:,}") if position == 0 else ("", "")
            table.add_row(*first, name, f"{one.quality.metrics[name]:.4f}", f"{one.quality.trivial[name]:.4f}")
    out.print(table)
    out.print("\n[bold]The service[/bold]")
    table = Table(
        "model",
        "answers",
        "imputed",
        "out of domain",
        "one row, ms p50 / p99",
        "rows/s in hourly requests",
        "from scikit-learn",
        box=None,
    )
    for one in outcomes:
        traffic = one.traffic
        p50, p99 = np.quantile(traffic.single_ms, [0.5, 0.99])
        rows_per_s = (len(traffic.rows) - len(traffic.single_ms)) / (traffic.batch_ms.sum() / 1000)
        table.add_row(
            one.spec.name,
            f"{len(traffic.rows):,}",
            f"{traffic.imputed:,}",
            f"{traffic.out_of_domain:,}",
            f"{p50:.2f} / {p99:.2f}",
            f"{rows_per_s:,.0f}",
            f"differs by {one.quality.max_difference:.1g}",
        )
    out.print(table)


def show_health(out: Console, specs: Sequence[ModelSpec], stores: Stores) -> None:
    """The verdicts of every window, and the words of those that are not healthy."""
    out.print("\n[bold]Health[/bold], window by window")
    table = Table("model", "windows", "data", "model", "features that stood out", box=None, pad_edge=False)
    for spec in specs:
        monitor = Monitor(spec, stores)
        model = monitor.newest_model_health(10_000)
        data = monitor.data_history(model[-1].window, 10_000) if model else []
        culprits = Counter(name for one in data for name in one.culprits)
        table.add_row(
            spec.name,
            str(len(model)),
            counted(one.verdict for one in data),
            counted(one.verdict for one in model),
            ", ".join(f"{name} ({count})" for name, count in culprits.most_common(4)) or "none",
        )
    out.print(table)


def counted(verdicts: Iterable[str]) -> str:
    """How often each verdict was given, in words, the most frequent first."""
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts).most_common())


def _where_to_look(out: Console, outcomes: list[Outcome], home: Home) -> None:
    out.print("\n[bold]Where to look next[/bold]")
    for command, what in (
        (".venv/bin/mlops-assets incidents --all", "what was found, and what became of it"),
        (f".venv/bin/mlops-assets decisions {outcomes[0].spec.name}", "what was decided, and why"),
        ("make up", "the Dagster UI on http://127.0.0.1:3000 and the service on http://127.0.0.1:8000"),
        (".venv/bin/mlops-assets status", "champions, releases, last verdicts"),
        (f".venv/bin/mlops-assets releases {outcomes[0].spec.name}", "every release and its reason"),
        (
            f".venv/bin/mlops-assets report {outcomes[0].spec.name}",
            "the newest window's health as a page: verdict, why, pictures",
        ),
        (f".venv/bin/mlops-assets trace {outcomes[0].traffic.prediction_ids[0]}", "what stands behind one answer"),
    ):
        out.print(f"  {command}\n      {what}", markup=False)
    out.print(f"  All state is in {home.root}; `make clean` removes it.", markup=False)
