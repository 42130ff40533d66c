"""What an operator types: `mlops-assets status`, `serve`, `releases`, `trace`, `report`, `demo`, `up`. Operations do the work."""

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import mlops_assets
from mlops_assets.cli.batch import add_batch_command
from mlops_assets.cli.drill import add_drill_command
from mlops_assets.cli.keys import add_key_commands
from mlops_assets.cli.ledger import add_ledger_commands
from mlops_assets.cli.replay import add_replay_command
from mlops_assets.cli.restart import add_restart_command
from mlops_assets.cli.rollouts import add_rollouts_command
from mlops_assets.cli.scorecard import add_scorecard_command
from mlops_assets.cli.shared import declared, stop
from mlops_assets.cli.stream import add_stream_command
from mlops_assets.cli.verbs import add_verbs
from mlops_assets.stores.home import Home

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Keep tabular models alive: see them, serve them, trace them."
)
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
PROJECT = Path(mlops_assets.__file__).parent.parent
UI = "http://127.0.0.1:3000"


@app.command()
def status() -> None:
    """What every declared model is doing: champion, release, workers, the last verdict, its monitor, incidents, automation.

    Ends with code 1 when a monitor has stopped, or fails, while traffic or labels wait for it, or a declaration is wrong.
    """
    from mlops_assets.operations.models import read_declarations
    from mlops_assets.operations.status import model_status
    from mlops_assets.operations.stores import Stores

    stores = Stores(Home.from_environment())
    table = Table(
        "model",
        "task",
        "champion",
        "release",
        "since",
        "trained until",
        "workers",
        "last gates",
        "health",
        "monitor",
        "incidents",
        "automation",
        box=None,
        pad_edge=False,
    )
    specs, mistakes = read_declarations()
    models = model_status(stores, specs.values(), datetime.now(UTC))
    for one in models:
        table.add_row(
            one.model,
            one.task,
            _or_dash(one.champion and f"v{one.champion}"),
            _or_dash(one.release),
            _or_dash(_time(one.since)),
            _or_dash(_time(one.trained_until)),
            one.workers,
            one.verdict,
            one.health,
            one.monitor,
            one.incidents,
            one.automation,
        )
    out.print(table)
    out.print(f"state: {stores.home.root}    service: {stores.home.service_url() or 'not running'}")
    wrong = [one.what for one in mistakes]
    if stopped := [one.model for one in models if one.monitor_stopped]:
        wrong.append(
            f"the monitor of {', '.join(stopped)} does not do its work, and something waits: start `mlops-assets up`"
        )
    if wrong:
        stop("\n".join(wrong))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="worker processes")] = 1,
    public_url: Annotated[str, typer.Option(help="where others reach it, when that is not host and port")] = "",
    bento: Annotated[
        Path | None, typer.Option(help="folder of a built Bento; left out: the project's own source")
    ] = None,
) -> None:
    """Serve every released model until Ctrl-C, and start the service again when it dies."""
    from mlops_assets.operations.bento import SOURCE
    from mlops_assets.operations.supervise import ServiceFailed
    from mlops_assets.operations.supervise import serve as serve_models

    try:
        raise typer.Exit(
            serve_models(
                Home.from_environment(),
                host=host,
                port=port,
                workers=workers,
                target=bento or SOURCE,
                public_url=public_url,
            )
        )
    except ServiceFailed as error:
        stop(error)


@app.command()
def releases(model: Annotated[str, typer.Argument(help="name of a model")]) -> None:
    """Every release plan of a model, newest first: who answered when, and why."""
    from mlops_assets.stores.releases import ReleaseStore

    plans = ReleaseStore(Home.from_environment().releases).history(model)
    if not plans:
        from mlops_assets.operations.models import how_to_begin  # brings in what a list of plans needs not

        declared(model)
        stop(f"no release of {model!r} in {Home.from_environment().releases}: {how_to_begin(model)}")
    table = Table(
        "release", "champion", "challenger", "decided at", "as of", "decided by", "reason", box=None, pad_edge=False
    )
    for plan in reversed(plans):
        challenger = (
            plan.challenger and f"v{plan.challenger.version} {plan.challenger.mode} {plan.challenger.share:.0%}"
        )
        table.add_row(
            str(plan.release),
            f"v{plan.champion.version}",
            _or_dash(challenger),
            _time(plan.decided_at),
            _time(plan.as_of),
            plan.decided_by,
            plan.reason,
        )
    out.print(table)


@app.command()
def trace(prediction_id: Annotated[str, typer.Argument(help="id that the service gave or was given")]) -> None:
    """From one prediction to the release, model version, MLflow run, data hash and code version behind it."""
    from mlops_assets.operations.stores import Stores
    from mlops_assets.operations.trace import Trace, UnknownPrediction
    from mlops_assets.operations.trace import trace as trace_prediction

    def show(one: Trace) -> None:
        record, plan, manifest = one.prediction, one.plan, one.manifest
        lines: list[tuple[str, Any]] = [
            ("prediction", record.id),
            ("asked for", f"{_or_dash(record.entity)} at {_time(record.event_time)}"),
            (
                "answered",
                f"{_time(record.served_at)} by {record.model} v{record.version} as {record.role}, {record.latency_ms:.2f} ms",
            ),
            (
                "output",
                ", ".join(f"{value:.6g}" for value in record.output) or f"status {record.status}: {record.error}",
            ),
            ("imputed", ", ".join(record.imputed) or "nothing"),
            ("out of domain", ", ".join(record.out_of_domain) or "nothing"),
            (
                "label",
                ", ".join(f"{one.name} = {one.value} (observed {_time(one.observed_at)})" for one in one.labels)
                or "not known",
            ),
        ]
        if plan is not None:
            lines.append(
                ("release", f"{plan.release}, decided {_time(plan.decided_at)} by {plan.decided_by}: {plan.reason}")
            )
        if manifest is not None:
            lines += [
                ("bundle", record.bundle),
                ("model version", f"{manifest.model} v{manifest.version} in the MLflow registry"),
                ("MLflow run", manifest.mlflow_run),
                ("Dagster run", manifest.dagster_run),
                (
                    "training",
                    f"{manifest.training_rows} rows, {_time(manifest.training_start)} to {_time(manifest.training_end)}",
                ),
                ("as of", _time(manifest.as_of)),
                ("data hash", manifest.data_hash),
                ("code version", manifest.code_version),
                ("libraries", ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items()))),
            ]
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in lines:
            table.add_row(name, str(value))
        out.print(table)

    try:
        for one in trace_prediction(Stores(Home.from_environment()), prediction_id):
            show(one)
    except UnknownPrediction as error:
        stop(error)


@app.command()
def report(
    model: Annotated[str, typer.Argument(help="name of a model")],
    window: Annotated[
        str | None, typer.Option(help="key of a window; the newest one with a verdict if left out")
    ] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="open the page in a browser")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Evidently's report of the window as well (needs the extra 'report')")
    ] = False,
) -> None:
    """Write the page on one window's health: the verdicts on data and model, why, and pictures. Prints its path."""
    from mlops_assets.operations.evidently_report import EvidentlyMissing, write_evidently_report
    from mlops_assets.operations.report import judged_windows, verdicts_of, write_report
    from mlops_assets.operations.stores import Stores

    spec, stores = declared(model), Stores(Home.from_environment())
    known = judged_windows(spec, stores)
    if not known:
        stop(
            f"no window of {model!r} has a verdict yet: materialise {model}/data_health and {model}/model_health first"
        )
    chosen = window or known[-1]
    if chosen not in known:
        stop(f"{model!r} has no verdict on window {chosen!r}: there are {len(known)} from {known[0]} to {known[-1]}")
    pages = [write_report(spec, stores, chosen)]
    try:
        if full:
            pages.append(write_evidently_report(spec, stores, chosen))
    except (EvidentlyMissing, FileNotFoundError, ValueError) as error:
        stop(error)
    data, answers = verdicts_of(spec, stores, chosen)
    out.print(f"{model} {chosen}: data {data}, model {answers}")
    for page in pages:
        out.print(str(page), markup=False)
        if show:
            typer.launch(page.as_uri())


@app.command()
def demo(
    until: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="last day (UTC) of traffic to send, exclusive")
    ] = datetime(2013, 4, 1),  # noqa: DTZ001
) -> None:
    """Both models from raw data to answers: Dagster runs, a real service, the real flights of March, judged by their labels."""
    from mlops_assets.demo import DemoFailed, run_demo

    try:
        run_demo(out, PROJECT, Home.from_environment(), until.replace(tzinfo=UTC) + timedelta(hours=4))
    except DemoFailed as error:
        stop(error)


@app.command()
def replay_year() -> None:
    """All real traffic from March to December through the service and the health assets, labels a week late, month by month."""
    from mlops_assets.demo import DemoFailed
    from mlops_assets.year import run_year

    try:
        run_year(out, PROJECT, Home.from_environment())
    except DemoFailed as error:
        stop(error)


@app.command()
def up() -> None:
    """The Dagster UI with its daemon, and the service, on what is there, until Ctrl-C."""
    commands = {
        "Dagster UI": [sys.executable, "-m", "dagster", "dev", "--host", "127.0.0.1", "--port", "3000"],
        "service": [sys.executable, "-m", "mlops_assets.cli", "serve"],
    }
    ended = run_together(commands, PROJECT, f"Dagster UI on {UI}, service on http://127.0.0.1:8000; Ctrl-C ends both")
    if ended is not None:
        stop(f"the {ended} has ended by itself; its output above says why")


def run_together(commands: dict[str, list[str]], folder: Path, greeting: str) -> str | None:
    """Run programs until one ends by itself, whose name is returned, or a signal asks for the end; then none is left.

    Also when the terminal is closed, and when Ctrl-C is pressed again while they end.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stopping.set())
    processes: dict[str, subprocess.Popen[bytes]] = {}
    ended = None
    try:
        for name, command in commands.items():
            processes[name] = subprocess.Popen(command, cwd=folder, start_new_session=True)
        out.print(greeting)
        while ended is None and not stopping.wait(0.5):
            ended = next((name for name, process in processes.items() if process.poll() is not None), None)
    finally:
        for process in processes.values():
            _end_session(process)
    return ended


def _end_session(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            continue


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _or_dash(value: object) -> str:
    return str(value) if value not in (None, "") else "-"


add_ledger_commands(app)
add_replay_command(app)
add_drill_command(app)
add_scorecard_command(app)
add_rollouts_command(app)
add_verbs(app)
add_key_commands(app)
add_batch_command(app)
add_stream_command(app)
add_restart_command(app)
